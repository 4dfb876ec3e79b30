"""Reading foreign models: from a recorded run to tables, head program and layout
(docs/architecture.md)."""
