"""How tensors are cut: into chunks for threads, blocks for sums, strips for the cache, lanes for wide registers."""

BLOCK = 1 << 14  # elements whose sums are taken together, whatever the chunk: this is what fixes the order of sums
TOGETHER = 64  # blocks, of all models together, that one thread holds at a time: memory does not grow with the models
STRIP = 1 << 11  # elements of all models that a loop goes over before it turns to the next; divides BLOCK
LANES = 16  # partial sums of a block: element j goes to lane j mod 16, so that the compiler can use wide registers
UNROLL = 4 * LANES  # elements added per turn of a loop, or every turn would wait for the last


def spans(count: int, step: int = BLOCK) -> list[tuple[int, int]]:
    """Cut `count` elements into (start, stop) pieces of `step`, the last one shorter."""
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def chunk(models: int) -> int:
    """Elements of each of so many models that a thread takes at a time: whole blocks, fewer the more models."""
    return max(1, TOGETHER // models) * BLOCK
