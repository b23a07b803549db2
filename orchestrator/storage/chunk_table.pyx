"""Tokens of chunks of text, remembered in C: what `token_counter` counts with where it is compiled.

The same as its `Chunks`, in a seventh of the time: a chunk is hashed and compared where it stands
in the text, and no object is made of it. A slot holds one chunk, and newer ones take its place: no
input can make the table grow.
"""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

import secrets

# A slot is a line of the processor's cache: nearly all words fit, and what JSON has between commas.
# Two slots make a pair, and a chunk may be in either: of a few hundred words some always want the
# same one, and would take it from each other in every text.
cdef enum:
    SLOTS = 1 << 15
    LONGEST = 58
cdef uint64_t PRIME = 1099511628211u  # FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/


cdef struct Slot:
    uint32_t hash
    uint8_t size
    uint8_t tokens
    char text[LONGEST]


cdef class ChunkTable:
    """``engine`` counts a chunk that is not known here, with ``special`` tokens too many.

    Chunks end at ``separator``, one ASCII character, which has ``each`` tokens itself; a text has
    ``whole`` more.
    """

    cdef Slot* _slots
    cdef uint32_t _mask
    cdef uint64_t _seed
    cdef object _count
    cdef char _separator
    cdef Py_ssize_t _each, _whole, _special

    def __cinit__(
        self, engine, str separator, *, Py_ssize_t each, Py_ssize_t whole, Py_ssize_t special
    ):
        self._slots = <Slot*>calloc(SLOTS, sizeof(Slot))
        if self._slots is NULL:
            raise MemoryError("There is no memory for a table of words: it takes 2 MiB.")
        self._mask = SLOTS - 2
        # Nobody outside can choose words that take each other's places.
        self._seed = secrets.randbits(64)
        self._count = engine.count
        self._separator = <char>ord(separator)
        self._each, self._whole, self._special = each, whole, special

    def __dealloc__(self):
        free(self._slots)

    cpdef Py_ssize_t count(self, str text) except -1:
        """Return the tokens of ``text``; raises `UnicodeEncodeError` for a lone surrogate."""
        cdef Py_ssize_t size, at, start = 0, total = self._whole
        cdef const char* data = PyUnicode_AsUTF8AndSize(text, &size)
        cdef uint64_t hash_ = self._seed
        for at in range(size + 1):
            # A text's UTF-8 ends in a zero byte, which is no separator.
            if at < size and data[at] != self._separator:
                hash_ = (hash_ ^ <uint8_t>data[at]) * PRIME
                continue
            if at > start:
                total += self._look_up(data + start, at - start, hash_)
            if at < size:
                total += self._each
            start, hash_ = at + 1, self._seed
        return total

    cdef Py_ssize_t _look_up(self, const char* chunk, Py_ssize_t size, uint64_t hash_) except -1:
        cdef uint32_t folded = <uint32_t>(hash_ ^ (hash_ >> 32))
        cdef Slot* slot = &self._slots[folded & self._mask]
        cdef Slot* older = slot + 1
        if slot.hash == folded and slot.size == size and not memcmp(slot.text, chunk, size):
            return slot.tokens
        if older.hash == folded and older.size == size and not memcmp(older.text, chunk, size):
            return older.tokens
        # Before the slot is written: counting may run anything, this table too.
        cdef Py_ssize_t tokens = self._count(chunk[:size].decode()) - self._special
        if size <= LONGEST and 0 <= tokens < 256:
            older[0] = slot[0]
            slot.hash, slot.size, slot.tokens = folded, <uint8_t>size, <uint8_t>tokens
            memcpy(slot.text, chunk, size)
        return tokens
