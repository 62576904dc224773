/* See common.h. */
#include "common.h"

static uint32_t checksum;

void *memcpy(void *to, const void *from, unsigned long n)
{
    void *d = to;

    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int c, unsigned long n)
{
    void *d = to;

    if (c || n % sizeof(long)) {
        __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
        return to;
    }
    n /= sizeof(long); /* in lockstep every element is a step */
#ifdef __x86_64__
    __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(0l) : "memory");
#else
    __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(0l) : "memory");
#endif
    return to;
}

/* A line goes out at once: an exit of a nested KVM is slow. */
void put_char(char c)
{
    static char line[4096];
    static unsigned long used;
    const char *from = line;

    line[used++] = c;
    if (c != '\n' && used < sizeof(line))
        return;
    __asm__ volatile("rep outsb" : "+S"(from), "+c"(used) : "d"(0xe9) : "memory");
    used = 0;
}

void put(const char *s)
{
    while (*s)
        put_char(*s++);
}

void put_hex(unsigned long value, unsigned digits)
{
    while (digits--)
        put_char("0123456789abcdef"[value >> (4 * digits) & 15]);
}

void sum32(uint32_t value) { checksum = (checksum << 5 | checksum >> 27) * 31 + value; }

void line_end(void)
{
    put_char(' ');
    put_hex(checksum, 8);
    put_char('\n');
    checksum = 0;
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t ar)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high =
        (base >> 16 & 0xff) | (ar & 0xf0ff) << 8 | (limit & 0xf0000) | (base & 0xff000000);

    return (uint64_t)high << 32 | low;
}
