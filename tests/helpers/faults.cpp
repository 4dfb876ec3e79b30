// A disk that fails, or a process that dies, at the n-th call: preloaded (LD_PRELOAD) by forked_commands.py.
// Only calls on files below a folder count, and only from fault_arm() on.
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace {
enum Kind { kWrites = 1, kReads = 2 };
// What happens at the n-th call: that call fails; it and all later ones fail; a write stores half of
// its bytes, then fails; the process is killed before it; a write stores half, then the process is killed.
enum Action { kOnce, kForever, kHalf, kKill, kHalfKill };

std::string root;
int kind = 0, action = 0, code = 0;
long at = -1, seen = 0;

bool below(const char* path) {
    if (root.empty() || !path) return false;
    char whole[PATH_MAX];
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole)) return false;
        size_t used = strlen(whole);
        snprintf(whole + used, sizeof whole - used, "/%s", path);
        path = whole;
    }
    return strncmp(path, root.c_str(), root.size()) == 0;
}

bool below(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 1 || path[0] != '/') return false;  // a pipe or socket
    path[length] = 0;
    return below(path);
}

// Whether this call has to fail; half is set where it should do half of its work first. A call that
// asks for no space fails at its own turn only.
template <class Place>
bool strikes(Kind which, Place place, bool* half = nullptr, bool asks_for_space = true) {
    if (!(kind & which) || at < 0 || !below(place)) return false;
    long call = seen++;
    bool lasting = asks_for_space && (action == kForever || action == kHalf);
    if (call < at || (call > at && !lasting)) return false;
    if (action == kKill || (action == kHalfKill && !half)) raise(SIGKILL);
    if (half && call == at) *half = action == kHalf || action == kHalfKill;
    errno = code;
    return true;
}

template <class F> F real(const char* name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }
}  // namespace

extern "C" {
void fault_arm(const char* below_root, int which, long call, int what, int error) {
    root = below_root, kind = which, at = call, action = what, code = error, seen = 0;
}
long fault_seen() { return seen; }

#define OPEN(NAME)                                                                               \
    int NAME(const char* path, int flags, ...) {                                                 \
        mode_t mode = 0;                                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                     \
            va_list rest;                                                                        \
            va_start(rest, flags);                                                               \
            mode = va_arg(rest, mode_t);                                                         \
            va_end(rest);                                                                        \
        }                                                                                        \
        bool writes = flags & (O_CREAT | O_TRUNC);                                               \
        if (strikes(writes ? kWrites : kReads, path)) return -1;                                 \
        return real<int (*)(const char*, int, ...)>(#NAME)(path, flags, mode);                   \
    }
OPEN(open)
OPEN(open64)

#define WRITE(NAME, ...)                                                                         \
    {                                                                                            \
        bool half = false;                                                                       \
        if (strikes(kWrites, descriptor, &half)) {                                               \
            if (half && size > 1) {                                                              \
                size /= 2;                                                                       \
                ssize_t done = real<decltype(&NAME)>(#NAME)(__VA_ARGS__);                        \
                if (action == kHalfKill) raise(SIGKILL);                                         \
                return done;                                                                     \
            }                                                                                    \
            if (action == kHalfKill) raise(SIGKILL);                                             \
            return -1;                                                                           \
        }                                                                                        \
        return real<decltype(&NAME)>(#NAME)(__VA_ARGS__);                                        \
    }
ssize_t write(int descriptor, const void* data, size_t size) WRITE(write, descriptor, data, size)
ssize_t pwrite(int descriptor, const void* data, size_t size, off_t where)
    WRITE(pwrite, descriptor, data, size, where)
ssize_t pwrite64(int descriptor, const void* data, size_t size, off64_t where)
    WRITE(pwrite64, descriptor, data, size, where)

#define CALL(RESULT, NAME, KIND, PLACE, SPACE, PARAMETERS, ...)                                  \
    RESULT NAME PARAMETERS {                                                                     \
        if (strikes(KIND, PLACE, nullptr, SPACE)) return -1;                                     \
        return real<decltype(&NAME)>(#NAME)(__VA_ARGS__);                                        \
    }
CALL(ssize_t, read, kReads, descriptor, true, (int descriptor, void* data, size_t size), descriptor, data,
     size)
CALL(int, fsync, kWrites, descriptor, true, (int descriptor), descriptor)
CALL(int, ftruncate, kWrites, descriptor, false, (int descriptor, off_t size), descriptor, size)
CALL(int, ftruncate64, kWrites, descriptor, false, (int descriptor, off64_t size), descriptor, size)
CALL(int, mkdir, kWrites, path, true, (const char* path, mode_t mode), path, mode)
CALL(int, rename, kWrites, to, false, (const char* from, const char* to), from, to)
}
