/* Binary search tree, not balanced, of 512 random keys: insert, look up, take out half, walk. */
#include "bench.h"

enum { NODES = 512 };

struct node {
    struct node *child[2];
    uint32_t key;
};

static struct node pool[NODES];

static struct node **find(struct node **link, uint32_t key) {
    while (*link && (*link)->key != key)
        link = &(*link)->child[key > (*link)->key];
    return link;
}

static void take_out(struct node **link) {
    struct node *node = *link;
    if (node->child[0] && node->child[1]) {
        struct node **least = &node->child[1];
        while ((*least)->child[0])
            least = &(*least)->child[0];
        node->key = (*least)->key;
        link = least;
        node = *least;
    }
    *link = node->child[0] ? node->child[0] : node->child[1];
}

static uint64_t walk(const struct node *node, uint64_t sum) {
    for (; node; node = node->child[1])
        sum = mix(walk(node->child[0], sum), node->key);
    return sum;
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    uint32_t state = 5;
    for (long unit = 0; unit < count; unit++) {
        struct node *root = NULL;
        uint32_t first = state, found = 0;
        for (int i = 0; i < NODES; i++) {
            uint32_t key = next_random(&state);
            pool[i] = (struct node){{NULL, NULL}, key};
            *find(&root, key) = &pool[i];
        }
        for (uint32_t i = 0, again = first; i < NODES; i++) {
            struct node **link = find(&root, next_random(&again));
            found += *link != NULL;
            if (i % 2)
                take_out(link);
        }
        sum = walk(root, mix(sum, found));
    }
    return sum;
}

const struct program tree_program = {.name = "tree", .run = run};
