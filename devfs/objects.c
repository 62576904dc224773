/* The files of a worker's session: which object each is, who may open it, and the requests of the FUSE protocol. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/fuse_abi.h"
#include "devfs/space.h"
#include "devfs/worker.h"

enum { FOREVER = 1 << 30 /* seconds */ };

/* ---- nodes ------------------------------------------------------------------------------------------------------------- */

int node_add(struct worker *w, enum object_kind kind, void *object, int backing)
{
    int number = -ENFILE;

    pthread_mutex_lock(&w->lock);
    if (w->nodes < NODES_MAX) {
        number = (int)w->nodes++;
        w->node[number] = (struct node){.kind = kind, .object = object, .backing = backing};
    }
    pthread_mutex_unlock(&w->lock);
    return number;
}

void node_set(struct worker *w, unsigned number, void *object)
{
    pthread_mutex_lock(&w->lock);
    w->node[number].object = object;
    pthread_mutex_unlock(&w->lock);
}

int node_open(struct worker *w, unsigned number)
{
    char name[OPEN_NAME_BYTES];

    snprintf(name, sizeof(name), "%s:%u", w->node[number].kind == OBJECT_VM ? "kvm-vm" : "kvm-vcpu", number);
    return opener_open(w, name);
}

static struct node *node_of(struct worker *w, uint64_t id)
{
    return id >= FIRST_NODE && id - FIRST_NODE < w->nodes ? &w->node[id - FIRST_NODE] : NULL;
}

static void attributes(struct worker *w, uint64_t id, struct fuse_attr *a)
{
    const struct node *n = node_of(w, id);

    memset(a, 0, sizeof(*a));
    a->ino = id;
    a->mode = id == ROOT_NODE ? S_IFDIR | 0700 : S_IFREG | 0600;
    a->nlink = 1;
    a->size = n && n->backing ? VCPU_MAP_BYTES : 0;
    a->blksize = KVM_PAGE;
}

/* A thread of ours? Others, to whom a descriptor has come, cannot open anything through it. */
static bool is_self(struct worker *w, uint32_t tid)
{
    return !syscall(SYS_tgkill, w->self, (pid_t)tid, 0);
}

/* ---- requests ------------------------------------------------------------------------------------------------------------ */

static void lookup(struct worker *w, const struct fuse_in_header *h, const char *name)
{
    struct fuse_entry_out out = {.attr_valid = FOREVER, .entry_valid = FOREVER, .generation = 1};
    const char *number = memchr(name, 0, h->len - sizeof(*h)) ? strchr(name, ':') : NULL;

    out.nodeid = number ? FIRST_NODE + (uint64_t)atoi(number + 1) : 0;
    if (!node_of(w, out.nodeid) || !is_self(w, h->pid)) {
        session_reply(&w->session, h->unique, -ENOENT, NULL, 0);
        return;
    }
    attributes(w, out.nodeid, &out.attr);
    session_reply(&w->session, h->unique, 0, &out, sizeof(out));
}

static void getattr(struct worker *w, const struct fuse_in_header *h)
{
    struct fuse_attr_out out = {.attr_valid = FOREVER};

    attributes(w, h->nodeid, &out.attr);
    session_reply(&w->session, h->unique, 0, &out, sizeof(out));
}

static void open_node(struct worker *w, const struct fuse_in_header *h)
{
    struct fuse_open_reply out = {.fh = h->nodeid, .open_flags = FUSE_OPEN_NOFLUSH | FOPEN_DIRECT_IO};
    const struct node *n = node_of(w, h->nodeid);

    if (!n || !is_self(w, h->pid)) {
        session_reply(&w->session, h->unique, -ENXIO, NULL, 0);
        return;
    }
    if (n->backing) {
        out.open_flags |= FUSE_OPEN_PASSTHROUGH; /* of mmap; read and write come to us */
        out.backing_id = n->backing;
    }
    atomic_fetch_add(&w->handles, 1);
    session_reply(&w->session, h->unique, 0, &out, sizeof(out));
}

/* Ends the process when the client has nothing of it any more. */
static void exit_if_last(struct worker *w)
{
    if (atomic_load(&w->handles) > 1)
        return;
    pthread_mutex_lock(&w->lock);
    if (atomic_load(&w->handles) == (w->ahead.vcpu_file >= 0) && !w->calls) /* a call may still have to be finished */
        _exit(0);
    pthread_mutex_unlock(&w->lock);
}

/* The client's last descriptor of an object is gone; with the last one of all, so are we. */
static void release(struct worker *w, const struct fuse_in_header *h)
{
    struct node *n = node_of(w, h->nodeid), was = {0};

    session_reply(&w->session, h->unique, 0, NULL, 0);
    pthread_mutex_lock(&w->lock);
    if (n) {
        was = *n;
        n->object = NULL;
    }
    pthread_mutex_unlock(&w->lock);
    if (was.object)
        object_put(was.kind, was.object);
    atomic_fetch_sub(&w->handles, 1);
    exit_if_last(w);
}

/* The object of a node with a reference of ours: a call that is answered early outlives the client's. */
static void *take(struct worker *w, const struct node *n)
{
    void *object;

    pthread_mutex_lock(&w->lock);
    object = n->object;
    if (object)
        vm_get(n->kind == OBJECT_VM ? object : ((struct kvm_vcpu *)object)->vm);
    pthread_mutex_unlock(&w->lock);
    return object;
}

static bool is_client(struct worker *w, pid_t tid)
{
    if (quick_again(w, tid))
        return true;
    return space_lives(w->space) && (!syscall(SYS_tgkill, w->client, tid, 0) || errno == EPERM);
}

static void do_ioctl(struct worker *w, struct reader *r, const struct fuse_in_header *h, struct fuse_ioctl_in *in)
{
    struct node *n = node_of(w, h->nodeid);
    struct call c = {.node = n, .reader = r};
    void *object = n && is_client(w, (pid_t)h->pid) ? take(w, n) : NULL;
    int ret;

    if (!object) {
        session_reply(&w->session, h->unique, -EIO, NULL, 0); /* it is another process's */
        return;
    }
    c.payload = (struct payload){.at = in->arg, .data = (uint8_t *)(in + 1), .in = in->in_size, .room = in->out_size};
    c.running = n->kind == OBJECT_VCPU && in->cmd == KVM_RUN ? object : NULL;
    readers_busy(&w->session.readers);
    call_begin(&c, w, h->unique, (pid_t)h->pid);
    c.client.compat = in->flags & FUSE_IOCTL_COMPAT;
    watch_call(&c);
    ret = object_ioctl(n->kind, object, &c.client, in->cmd, in->arg);
    call_end(&c, ret);
    object_put(n->kind, object);
    exit_if_last(w); /* the client may be gone: it had its answer from the hand */
}

static void interrupt(struct worker *w, const struct fuse_in_header *h, const struct fuse_interrupt_in *in)
{
    if (!call_interrupt(w, in->unique)) /* not taken up yet: the kernel asks again while there is such a request */
        session_reply(&w->session, h->unique, -EAGAIN, NULL, 0);
}

void worker_serve(struct session *s, struct reader *r, const struct fuse_in_header *h, void *body)
{
    struct worker *w = s->owner;

    switch (h->opcode) {
    case FUSE_IOCTL: do_ioctl(w, r, h, body); break;
    case FUSE_INTERRUPT: interrupt(w, h, body); break;
    case FUSE_LOOKUP: lookup(w, h, body); break;
    case FUSE_GETATTR: getattr(w, h); break;
    case FUSE_OPEN: open_node(w, h); break;
    case FUSE_RELEASE: release(w, h); break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET: break; /* no answer */
    case FUSE_READ:
    case FUSE_WRITE: session_reply(s, h->unique, -EINVAL, NULL, 0); break; /* as KVM's descriptors */
    case FUSE_SETATTR: session_reply(s, h->unique, -EPERM, NULL, 0); break;
    default: session_reply(s, h->unique, -ENOSYS, NULL, 0); break;
    }
}
