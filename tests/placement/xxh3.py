"""XXH3, 64 bits, with a seed: written from its specification, so that `check.py` needs no module from elsewhere.

Input is read as little-endian words. Short inputs, to 240 bytes, are a sum of 128-bit products folded to 64 bits; longer ones go through
eight lanes of 64 bits, in stripes of 64 bytes, 16 of which make a block.
"""

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
P32 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MIX = 0x165667919E3779F9, 0x9FB21C651E98DF25
MASK32, MASK = 2**32 - 1, 2**64 - 1
LANES = P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]


def word(data, at, size=8):
    return int.from_bytes(data[at:at + size], "little")


def swapped(value, size):
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def rotated(value, by):
    return (value << by | value >> (64 - by)) & MASK


def folded(left, right):
    product = left * right
    return product & MASK ^ product >> 64


def avalanche(h):
    h = (h ^ h >> 37) * MIX[0] & MASK
    return h ^ h >> 32


def avalanche64(h):
    h = (h ^ h >> 33) * P64[1] & MASK
    h = (h ^ h >> 29) * P64[2] & MASK
    return h ^ h >> 32


def to_16(data, seed):
    size = len(data)
    if size == 0:
        return avalanche64(seed ^ word(SECRET, 56) ^ word(SECRET, 64))
    if size <= 3:
        combined = data[0] << 16 | data[size // 2] << 24 | data[-1] | size << 8
        return avalanche64(combined ^ ((word(SECRET, 0, 4) ^ word(SECRET, 4, 4)) + seed & MASK))
    if size <= 8:
        seed ^= swapped(seed & MASK32, 4) << 32
        both = word(data, size - 4, 4) + (word(data, 0, 4) << 32)
        h = both ^ ((word(SECRET, 8) ^ word(SECRET, 16)) - seed & MASK)
        h ^= rotated(h, 49) ^ rotated(h, 24)
        h = h * MIX[1] & MASK
        h = (h ^ (h >> 35) + size) * MIX[1] & MASK
        return h ^ h >> 28
    low = word(data, 0) ^ ((word(SECRET, 24) ^ word(SECRET, 32)) + seed & MASK)
    high = word(data, size - 8) ^ ((word(SECRET, 40) ^ word(SECRET, 48)) - seed & MASK)
    return avalanche(size + swapped(low, 8) + high + folded(low, high) & MASK)


def mixed(data, at, secret_at, seed):
    """16 bytes of data with 16 of the secret."""
    return folded(word(data, at) ^ (word(SECRET, secret_at) + seed & MASK),
                  word(data, at + 8) ^ (word(SECRET, secret_at + 8) - seed & MASK))


def to_240(data, seed):
    size = len(data)
    h = size * P64[0]
    if size <= 128:
        for pair in range((size - 1) // 32 + 1):
            h += mixed(data, 16 * pair, 32 * pair, seed) + mixed(data, size - 16 * pair - 16, 32 * pair + 16, seed)
        return avalanche(h & MASK)
    for part in range(8):
        h += mixed(data, 16 * part, 16 * part, seed)
    h = avalanche(h & MASK)
    for part in range(8, size // 16):
        h += mixed(data, 16 * part, 16 * (part - 8) + 3, seed)
    return avalanche(h + mixed(data, size - 16, 136 - 17, seed) & MASK)


def accumulate(lanes, data, at, secret, secret_at):
    for lane in range(8):
        value = word(data, at + 8 * lane)
        key = value ^ word(secret, secret_at + 8 * lane)
        lanes[lane ^ 1] = lanes[lane ^ 1] + value & MASK
        lanes[lane] = lanes[lane] + (key & MASK32) * (key >> 32) & MASK


def above_240(data, seed):
    secret = b"".join((word(SECRET, at) + (seed if at % 16 == 0 else -seed) & MASK).to_bytes(8, "little") for at in range(0, 192, 8))
    lanes, size = list(LANES), len(data)
    for stripe in range((size - 1) // 64):
        accumulate(lanes, data, 64 * stripe, secret, stripe % 16 * 8)
        if stripe % 16 == 15:
            for lane in range(8):
                h = lanes[lane]
                lanes[lane] = (h ^ h >> 47 ^ word(secret, 128 + 8 * lane)) * P32[0] & MASK
    accumulate(lanes, data, size - 64, secret, 192 - 64 - 7)
    h = size * P64[0]
    for pair in range(4):
        h += folded(lanes[2 * pair] ^ word(secret, 11 + 16 * pair), lanes[2 * pair + 1] ^ word(secret, 19 + 16 * pair))
    return avalanche(h & MASK)


def xxh3_64(data, seed):
    if len(data) <= 16:
        return to_16(data, seed)
    return to_240(data, seed) if len(data) <= 240 else above_240(data, seed)
