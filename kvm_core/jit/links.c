/* Jumps that lead straight to a block: within a page, and, by way of the block's prologue, from one page into another.
 *
 * A block's jumps to itself die with it. Of the others a list is kept, by the block that they lead to and by the one that they
 * are in. When either goes, they lead home, to the code that asks C for another: who returns to a call executes what stands behind
 * it even if that block has gone meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "jit/emit.h"

enum { LINKS_MAX = 1 << 18 };
#define LINKS_BYTES (LINKS_MAX * sizeof(struct link))

struct link {
    uint32_t at;           /* where the jump is */
    uint32_t home : 31;    /* where it leads when it is not linked */
    uint32_t far : 1;      /* from another page */
    uint32_t to;           /* the block; 0: not linked */
    uint32_t next, before; /* others that lead to it */
    uint32_t next_from;    /* another in the same block; or the next that is free */
};

int jit_links_create(struct jit *j)
{
    j->links = mmap(NULL, LINKS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return j->links == MAP_FAILED ? -ENOMEM : 0;
}

void jit_links_destroy(struct jit *j)
{
    if (j->links != MAP_FAILED)
        munmap(j->links, LINKS_BYTES);
}

static void detach(struct jit *j, struct link *l)
{
    if (!l->to)
        return;
    if (l->before)
        j->links[l->before].next = l->next;
    else
        j->blocks[l->to].links_to = l->next;
    if (l->next)
        j->links[l->next].before = l->before;
    l->to = 0;
}

static void cut(struct jit *j, struct block *b, bool far_only)
{
    for (uint32_t n = b->links_to, next; n; n = next) {
        struct link *l = &j->links[n];
        next = l->next;
        if (far_only && !l->far)
            continue;
        set_jump(j->rw + l->at, j->rw + l->home);
        detach(j, l);
    }
}

void jit_links_cut(struct jit *j, struct block *b) { cut(j, b, false); }

void jit_links_cut_far(struct jit *j, struct block *b) { cut(j, b, true); }

void jit_links_forget(struct jit *j, struct block *b)
{
    for (uint32_t n = b->links_from, next; n; n = next) {
        next = j->links[n].next_from;
        set_jump(j->rw + j->links[n].at, j->rw + j->links[n].home);
        detach(j, &j->links[n]);
        j->links[n].next_from = j->free_link;
        j->free_link = n;
    }
    b->links_from = 0;
}

/* The link of the jump at `at`; 0: there is no room. */
static uint32_t link_of(struct jit *j, struct block *from, uint32_t at)
{
    uint32_t n = from->links_from;

    while (n && j->links[n].at != at)
        n = j->links[n].next_from;
    if (n)
        return n;
    n = j->free_link;
    if (n)
        j->free_link = j->links[n].next_from;
    else if (j->links_used < LINKS_MAX - 1)
        n = ++j->links_used;
    else
        return 0;
    j->links[n] = (struct link){.at = at, .home = get_jump(j->rw, at), .next_from = from->links_from};
    return from->links_from = n;
}

static void link_to(struct jit *j, struct block *from, uint32_t patch, struct block *to)
{
    uint32_t at = patch & (PATCH_FAR - 1), n = link_of(j, from, at);
    struct link *l = &j->links[n];

    if (!n)
        return;
    detach(j, l);
    l->far = !!(patch & PATCH_FAR);
    l->to = (uint32_t)(to - j->blocks);
    l->before = 0;
    l->next = to->links_to;
    if (l->next)
        j->links[l->next].before = n;
    to->links_to = n;
    set_jump(j->rw + at, j->rw + to->entry - (patch & PATCH_FAR ? JIT_FAR : 0));
}

void jit_link(struct jit *j, uint32_t patch, struct block *b)
{
    uint32_t at = patch & (PATCH_FAR - 1);
    struct block *from = jit_block_at(j, at);

    if (!from || !from->page)
        return;
    if (from == b && !(patch & PATCH_FAR))
        set_jump(j->rw + at, j->rw + b->entry);
    else if (patch & PATCH_FAR || from->page == b->page)
        link_to(j, from, patch, b);
}
