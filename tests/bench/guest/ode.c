/* An ordinary differential equation in double precision: Lorenz's, 500 steps of Runge and Kutta's fourth order a unit. */
#include <string.h>

#include "bench.h"

enum { STEPS = 500 };

struct point {
    double x, y, z;
};

static struct point slope(struct point p) {
    return (struct point){10.0 * (p.y - p.x), p.x * (28.0 - p.z) - p.y, p.x * p.y - 8.0 / 3.0 * p.z};
}

static struct point ahead(struct point p, struct point by, double time) {
    return (struct point){p.x + by.x * time, p.y + by.y * time, p.z + by.z * time};
}

static struct point step(struct point p, double time) {
    struct point a = slope(p), b = slope(ahead(p, a, time / 2)), c = slope(ahead(p, b, time / 2));
    struct point d = slope(ahead(p, c, time));
    struct point mean = {(a.x + 2 * b.x + 2 * c.x + d.x) / 6, (a.y + 2 * b.y + 2 * c.y + d.y) / 6,
                         (a.z + 2 * b.z + 2 * c.z + d.z) / 6};
    return ahead(p, mean, time);
}

static uint64_t run(long count) {
    struct point point = {1.0, 1.0, 1.0};
    for (long unit = 0; unit < count; unit++)
        for (int i = 0; i < STEPS; i++)
            point = step(point, 0.005);
    uint64_t x, z;
    memcpy(&x, &point.x, sizeof x);
    memcpy(&z, &point.z, sizeof z);
    return x ^ z << 1;
}

const struct program ode_program = {.name = "ode", .run = run};
