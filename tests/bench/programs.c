/* Small programs of one kind of work each, timed from inside: natively, and in guests. Prints "BENCH name milliseconds", the
 * least of three runs. Fixed before anything was measured with them; a change starts all comparisons anew. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile uint64_t result; /* keeps the work from being optimised away */

static uint32_t next_random(uint32_t *state) { return (*state = *state * 1103515245 + 12345) >> 8; }

/* ---- integers ---------------------------------------------------------------------------------- */

static void hash(void)
{
    static uint64_t table[1 << 16];
    uint64_t x = 1;

    for (int i = 0; i < 3000000; i++) {
        x = x * 6364136223846793005ull + 1;
        uint64_t at = x >> 40 & 0xffff, key = x >> 20;
        while (table[at] && table[at] != key) {
            at = (at + 1) & 0xffff;
            if ((at & 15) == 0)
                break;
        }
        table[at] = key;
    }
    result = table[5];
}

static int compare(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

static void quicksort(void)
{
    enum { N = 200000 };
    static int a[N];
    uint32_t state = 1;

    for (int i = 0; i < N; i++)
        a[i] = (int)next_random(&state);
    qsort(a, N, sizeof(a[0]), compare);
    result = (uint64_t)a[7];
}

static void sieve(void)
{
    enum { N = 2000000 };
    static char prime[N];
    int count = 0;

    memset(prime, 1, N);
    for (int i = 2; i * i < N; i++)
        if (prime[i])
            for (int j = i * i; j < N; j += i)
                prime[j] = 0;
    for (int i = 2; i < N; i++)
        count += prime[i];
    result = (uint64_t)count;
}

struct node {
    struct node *left, *right;
    uint32_t key;
};

static struct node *insert(struct node *t, uint32_t key)
{
    if (!t) {
        t = malloc(sizeof(*t));
        if (!t)
            exit(1);
        *t = (struct node){.key = key};
    } else if (key < t->key) {
        t->left = insert(t->left, key);
    } else {
        t->right = insert(t->right, key);
    }
    return t;
}

static uint64_t sum(const struct node *t) { return t ? t->key + sum(t->left) + sum(t->right) : 0; }

static void tree(void)
{
    static struct node *root;
    uint32_t state = 7;

    root = NULL;
    for (int i = 0; i < 60000; i++)
        root = insert(root, next_random(&state));
    for (int i = 0; i < 5; i++)
        result = sum(root);
}

static void crc(void)
{
    static uint32_t table[256];
    static uint8_t data[65536];
    uint32_t c = ~0u;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t x = i;
        for (int k = 0; k < 8; k++)
            x = x & 1 ? 0xedb88320 ^ x >> 1 : x >> 1;
        table[i] = x;
    }
    for (int round = 0; round < 200; round++)
        for (unsigned i = 0; i < sizeof(data); i++)
            c = table[(c ^ data[i]) & 255] ^ c >> 8;
    result = c;
}

static uint64_t fibonacci(int n) { return n < 2 ? (uint64_t)n : fibonacci(n - 1) + fibonacci(n - 2); }

static void calls(void) { result = fibonacci(32); }

static void bytecode(void)
{
    uint8_t program[64];
    int64_t r[4] = {1, 2, 3, 4};

    for (int i = 0; i < 64; i++)
        program[i] = (uint8_t)(i * 7 % 6);
    for (int i = 0; i < 12000000; i++) {
        switch (program[i & 63]) {
        case 0: r[0] += r[1]; break;
        case 1: r[1] ^= r[2]; break;
        case 2: r[2] = r[3] * 3; break;
        case 3: r[3] -= r[0]; break;
        case 4: r[0] >>= 1; break;
        default: r[1]++;
        }
    }
    result = (uint64_t)r[0];
}

static void strings(void)
{
    static char text[1000][24];
    int count = 0;

    for (int i = 0; i < 1000; i++)
        snprintf(text[i], sizeof(text[i]), "key-%08d-x", i * 7919);
    for (int i = 0; i < 3000; i++)
        for (int j = 0; j < 1000; j++) {
            const char *p = text[i % 1000], *q = text[j];
            while (*p && *p == *q)
                p++, q++;
            count += *p < *q;
        }
    result = (uint64_t)count;
}

static void allocate(void)
{
    static void *slot[1000];
    uint32_t state = 3;

    for (int i = 0; i < 1500000; i++) {
        uint32_t at = next_random(&state) % 1000;
        free(slot[at]);
        slot[at] = malloc(16 + next_random(&state) % 500);
    }
    result = (uintptr_t)slot[3];
}

/* ---- floating point, vectors, memory --------------------------------------------------------------- */

static void dot(void)
{
    enum { N = 4096 };
    static double x[N], y[N];
    double s = 0;

    for (int i = 0; i < N; i++) {
        x[i] = i * 0.5;
        y[i] = i * 0.25;
    }
    for (int round = 0; round < 4000; round++)
        for (int i = 0; i < N; i++)
            s += x[i] * y[i];
    result = (uint64_t)s;
}

static void matrix(void)
{
    enum { N = 160 };
    static float a[N][N], b[N][N], c[N][N];

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (float)(i + j);
            b[i][j] = (float)(i - j);
        }
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++)
                    c[i][j] += a[i][k] * b[k][j];
    result = (uint64_t)c[3][3];
}

static void ode(void)
{
    double x = 1, v = 0;

    for (int i = 0; i < 8000000; i++) {
        double a = -x - .01 * v;
        v += a * 1e-3;
        x += v * 1e-3;
    }
    result = (uint64_t)(int64_t)(x * 1e6);
}

static void copy(void)
{
    enum { N = 16 << 20 };
    static char from[N], to[N];

    for (int i = 0; i < 6; i++) {
        memcpy(to, from, N);
        from[i] = (char)i;
    }
    result = (uint64_t)to[99];
}

/* ---- */

static const struct {
    const char *name;
    void (*run)(void);
} programs[] = {{"hash", hash}, {"quicksort", quicksort}, {"sieve", sieve}, {"tree", tree}, {"crc", crc}, {"calls", calls},
                {"bytecode", bytecode}, {"strings", strings}, {"allocate", allocate}, {"dot", dot}, {"matrix", matrix},
                {"ode", ode}, {"copy", copy}};

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int main(void)
{
    for (unsigned n = 0; n < sizeof(programs) / sizeof(programs[0]); n++) {
        double least = 1e9;
        for (int run = 0; run < 3; run++) {
            double start = now_ms();
            programs[n].run();
            double ms = now_ms() - start;
            least = ms < least ? ms : least;
        }
        printf("BENCH %s %.3f\n", programs[n].name, least);
        fflush(stdout);
    }
    return 0;
}
