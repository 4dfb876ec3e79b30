# The main job as an ordinary user: docker build -t adderlab . && docker run --rm adderlab
FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# The small build of PyTorch for the CPU; adderlab's own requirement is then met.
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir /src && useradd --home-dir /lab --create-home adder
USER adder
WORKDIR /lab
ENTRYPOINT ["adderlab"]
CMD ["train", "7p", "--until", "proved"]
