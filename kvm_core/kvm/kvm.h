/* The objects behind the ioctls: client, VM, vCPU; and what the files of kvm/ offer one another.
 *
 * Locks, in the order in which they are taken:
 *   kvm_vcpu.mutex     one ioctl at a time on a vCPU; held all through KVM_RUN
 *   kvm_vm.lock        creation of vCPUs, irqchip, capabilities
 *   kvm_vm.slots_lock  memory slots, dirty logs
 *   kvm_vm.io_lock     (rw) ioeventfds and coalesced zones; readers are vCPUs inside machine_ops
 *   irqchip.lock       see irq/irqchip.h
 *   kvm_vm.ack_lock    resampling irqfds, taken inside irqchip.lock
 * A vCPU inside the engine takes none of the first three, so that a holder may wait for it (vm_quiesce).
 */
#ifndef KVMISH_KVM_KVM_H
#define KVMISH_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/sync.h"
#include "cpu/tsc.h"
#include "cpu/vcpu.h"
#include "irq/irqchip.h"
#include "irq/lapic.h"
#include "kvm/abi_new.h"
#include "mmu/phys.h"

enum { KVM_PAGE = 4096, VCPU_MAP_BYTES = 3 * KVM_PAGE, RING_PAGE = 2 };
enum { VCPUS_MAX = 1024, VCPU_IDS_MAX = 4096, USER_SLOTS_MAX = 32764 };
#define MCG_CAP_SUPPORTED 0x1000100ull /* MCG_CTL_P, MCG_SER_P */
enum { CPUID_MAX = 256, MSR_IO_MAX = 256, IO_BUS_MAX = 1000, SLOT_PAGES_MAX = 0x7fffffff };

/* ---- client.c: the program on the other side ------------------------------------------------------------ */

enum object_kind { OBJECT_NONE, OBJECT_SYSTEM, OBJECT_VM, OBJECT_VCPU, OBJECT_DEVICE };

struct client;

/* What differs between a client in this process and one elsewhere. All return -errno on failure. */
struct client_ops {
    /* Hands a new object to the client: its descriptor. map_fd >= 0: the file that the client may mmap.
     * Takes over one reference to the object on success. */
    int (*install)(const struct client *c, enum object_kind kind, void *object, int map_fd);
    /* Hands over a memfd for reading, which needs no door behind it: the client's descriptor. fd stays ours. */
    int (*give)(const struct client *c, int fd);
    /* A descriptor of our own for the client's fd, which must be an eventfd: see client_eventfd(). */
    int (*take_eventfd)(const struct client *c, int fd, uint64_t *id);
    /* Makes the client's memory at addr, size_bytes of whole pages, readable and writable at *host, shared with the
     * client; unmap ends it. 1: some of it cannot be written, or is not there. */
    int (*map)(const struct client *c, uintptr_t addr, size_t size_bytes, uint8_t **host);
    void (*unmap)(uint8_t *host, size_t size_bytes);
    /* The same for what the client has mapped at `at` since map() made host of that memory. 1: its thread is stopped, and waits for the
     * call's end; -EBUSY: so it does, but others of the client's do not stand still, and nothing was done. NULL: host is the client's
     * memory itself. */
    int (*renew)(const struct client *c, uintptr_t addr, size_t size_bytes, uint8_t *host, uintptr_t at);
};

/* The kernel's, between it and who traces a thread: the system call is made again, unless a signal handler is to run, behind which it is
 * EINTR. Of KVM_RUN only, after renew() has stopped the thread. */
enum { ERESTARTNOHAND = 514 };

/* The client's memory at a call's argument as it came with the call, and as it goes back with the answer: no need to reach for it. */
struct payload {
    uintptr_t at;
    uint8_t *data;
    size_t in, room; /* bytes that came; that may go back */
    size_t out;      /* that go back: written so far, from the start */
};

/* One accessor for client memory and descriptors, whatever the door. */
struct client {
    pid_t pid; /* 0: this process */
    const struct client_ops *ops;
    struct payload *payload; /* NULL: none came */
    bool compat; /* a 32-bit caller: the upper halves of pointers in its structs are undefined */
    bool (*ends)(void *with); /* of the calling thread: kvmish_run(); or NULL */
    void *with;
    pid_t thread; /* of that process, to reach its memory and descriptors by: the first one may have ended; 0: by pid */
};

/* 0 or -EFAULT; -EPERM: the process may not be looked into. */
int client_read(const struct client *c, void *to, uintptr_t from, size_t n);
int client_write(const struct client *c, uintptr_t to, const void *from, size_t n);
/* A descriptor of our own for the client's file: -EBADF. */
int client_dup(const struct client *c, int fd);
/* The same, and it must be an eventfd: -EBADF, -EINVAL. *id: equal for two descriptors of one eventfd. */
int client_eventfd(const struct client *c, int fd, uint64_t *id);
/* Is that the kernel's number of it? Or else the client's, which another eventfd may have by now. */
static inline bool client_eventfd_known(uint64_t id) { return !(id >> 63); }
int client_dup_eventfd(const struct client *c, int fd, uint64_t *id); /* by client_dup() */
/* The same of a copy that we have already; takes it over. */
int client_eventfd_of(int copy, int fd, uint64_t *id);
/* An array of count elements behind a pointer of the client's: malloced, or NULL and *error. */
void *client_read_array(const struct client *c, uintptr_t from, size_t count, size_t size, int *error);

/* What a pointer in a struct of the client's points to. */
static inline void *client_pointer(const struct client *c, void *p)
{
    return c->compat ? (void *)(uintptr_t)(uint32_t)(uintptr_t)p : p;
}

extern const struct client client_self;

#define GET(c, var, arg) client_read((c), &(var), (arg), sizeof(var))
#define PUT(c, arg, var) client_write((c), (arg), &(var), sizeof(var))

/* ---- the VM --------------------------------------------------------------------------------------------- */

struct kvm_vcpu;
struct irqfds;
struct io_event;

struct kvm_slot { /* a memory slot; replaced, never changed, once it is in a map */
    struct memslot s;
    struct memobj obj;
    uint32_t flags; /* KVM_MEM_* */
};

struct slot_order { /* by the client's addresses: slotorder.c */
    struct memslot **slot;
    unsigned count, room;
    unsigned sharing; /* neighbours that share memory */
};

struct zone { /* coalesced MMIO or PIO */
    uint64_t addr;
    uint32_t size_bytes;
    bool pio;
};

struct msr_range {
    uint32_t flags, base, count;
    uint8_t *bitmap;
};

struct msr_filter {
    bool default_allow;
    unsigned count;
    struct msr_range range[KVM_MSR_FILTER_MAX_RANGES];
};

struct kvm_vm {
    _Atomic int refs; /* its descriptor, its vCPUs' and devices' descriptors */
    struct client client;
    unsigned generation; /* of the process: see kvmish_forked */
    unsigned number;     /* names it in statistics */

    pthread_mutex_t lock;
    struct kvm_vcpu *vcpu[VCPUS_MAX]; /* in order of creation; filled before `vcpus` is raised */
    _Atomic unsigned vcpus;
    uint32_t bsp_id;
    uint32_t max_vcpu_ids; /* 0: not said before the first vCPU, it may be yet */
    uint64_t disabled_quirks;
    uint64_t disabled_exits; /* KVM_X86_DISABLE_EXITS_* */
    uint64_t hypercall_exits;
    uint32_t user_msr_reasons; /* KVM_MSR_EXIT_REASON_*: exit instead of #GP */
    bool exception_payload, triple_fault_event, hides_platform_info;
    uint64_t tss_addr, identity_map_addr;
    _Atomic(struct msr_filter *) msr_filter;

    pthread_mutex_t slots_lock;
    struct kvm_slot **slot; /* by id; slots_size of them */
    unsigned slots_size;
    struct slot_order order;
    _Atomic(struct phys_map *) map;
    bool aliases; /* some host page is in two slots */
    _Atomic(struct kvm_vcpu *) exclusive; /* executes alone at the moment */
    uint64_t manual_dirty; /* KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | INITIALLY_SET */

    pthread_rwlock_t io_lock;
    struct io_event *io_events;
    struct zone *zones;
    _Atomic unsigned io_event_count, zone_count;
    pthread_mutex_t ring_lock;
    _Atomic(struct kvm_coalesced_mmio_ring *) ring; /* in the first vCPU's file */

    struct irqchip irq;
    struct irqfds *irqfds; /* eventfd.c */
    pthread_mutex_t ack_lock;

    /* clock.c: kvmclock = clock_base_ns + (host TSC - clock_base_tsc), scaled */
    pthread_mutex_t clock_lock;
    uint64_t clock_base_tsc;
    int64_t clock_base_ns;
    uint64_t wall_clock_msr;
    uint32_t tsc_khz;
    uint64_t tsc_offset; /* of all vCPUs that nobody has set apart: the VM's TSC starts at 0 */
    uint64_t tsc_written, tsc_written_at; /* the client's last IA32_TSC, and the host's TSC then */

    _Atomic uint64_t stat_flushes;
    uint64_t *stat_page;
    int stat_fd;

    struct kvm_vm *next; /* backing.c: of this process's machines, */
    bool held;           /* and whether vm_hold() has stopped it */
};

/* ---- the vCPU ------------------------------------------------------------------------------------------- */

struct vcpu_stats { /* uint64_t each, in the order of stats.c */
    uint64_t exits, io_exits, mmio_exits, signal_exits, irq_window_exits, halt_exits, halt_wakeup, halt_wait_ns;
    uint64_t irq_injections, nmi_injections, hypercalls, emulation_fail, user_exits;
};

enum { LATE = 1 }; /* kvm_vcpu.late is set */

enum { /* kvm_vcpu.events: from other threads, acted upon by the entry loop */
    VCPU_INIT = 1, VCPU_SIPI = 2, VCPU_NMI = 4, VCPU_CLOCK = 8, VCPU_PV_KICK = 16, VCPU_TRIPLE_FAULT = 32
};

struct kvm_vcpu {
    struct vcpu cpu; /* first: aligned to a page with the whole */
    const struct engine *engine;
    struct kvm_vm *vm;
    uint32_t id;    /* the client's */
    unsigned index; /* in vm->vcpu */

    pthread_mutex_t mutex;
    int fd; /* the memfd; the client's descriptor is another one of the same file */
    struct kvm_run *run;
    uint8_t *pio_page;

    /* reached by other threads */

    _Atomic uint32_t signalled;   /* KVM_RUN must return -EINTR */
    _Atomic uint32_t handled;     /* the same, by a handler of the thread that runs it: never for the next KVM_RUN */
    bool (*ends)(void *with);     /* the same, of the call under way: struct client; or NULL */
    void *with;
    _Atomic uint32_t waiting;     /* in the futex of `kick` */
    _Atomic bool paused;          /* inside an instruction, waits for its turn to be alone, or is */
    _Atomic uint32_t events;      /* VCPU_* */
    _Atomic uint32_t nmi_queued;  /* 0 to 2 */
    _Atomic uint32_t sipi_vector;
    _Atomic uint64_t eoi_exits[4]; /* split irqchip: vectors whose EOI the client waits for */

    struct lapic lapic;
    bool has_lapic;
    uint32_t mp_state; /* KVM_MP_STATE_* */

    /* a run that has exited to the client and what completes it */
    uint8_t completing; /* enum cpu_exit_reason of the exit, or EXIT_POLL for none */
    int user_irq; /* KVM_INTERRUPT without irqchip: the vector, or -1 */
    bool has_sigmask; /* KVM_SET_SIGNAL_MASK: KVM_RUN runs with `sigmask` ... */
    bool masked;      /* ... and does so now; its thread's own is `outer_mask` */
    bool pv_unhalt;   /* KVM_HC_KICK_CPU has come: HLT ends */
    struct running *running; /* its entry in the table for signal handlers: _accel.c */
    sigset_t sigmask, outer_mask;

    bool enforce_pv;
    uint32_t pv_features; /* that CPUID names */
    bool ran; /* the guest has been entered: CPUID is fixed */

    /* PV and other MSRs of this layer: clock.c, msrs.c */
    uint64_t msr_system_time, msr_steal, msr_pv_eoi, msr_poll_control, msr_apf_en, msr_apf_int;
    bool clock_boot_msr; /* MSR 0x12 rather than 0x4b564d01 */
    bool clock_stopped;  /* to be told by the next time page: KVM_KVMCLOCK_CTRL */
    bool late_looked_for; /* in this KVM_RUN */
    uint64_t late, wall_clock_late; /* a gpa that a clock was to be written to and that is not there, | LATE; the wall clock's */
    bool pv_eoi_set; /* the guest may end the vector in service without an exit */
    uint64_t steal_tsc, steal_thread, steal_switches, steal_ns; /* when, and what of which thread, was last looked at */
    uint64_t vapic_addr;

    struct vcpu_stats stat;
    uint64_t *stat_page;
    int stat_fd;
};

static inline struct kvm_vcpu *kvm_of(struct vcpu *v)
{
    return (struct kvm_vcpu *)v;
}
static inline bool vm_has_irqchip(const struct kvm_vm *vm)
{
    return vm->irq.mode != IRQCHIP_NONE;
}

/* ---- entries: one per descriptor kind; >= 0 or -errno ------------------------------------------------------ */

int system_ioctl(const struct client *c, unsigned long req, uintptr_t arg);
int vm_ioctl(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg);
int vcpu_ioctl(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg);
void running_remove(struct kvm_vcpu *kv); /* _accel.c: the vCPU goes away */
void running_forked(void);                /* _accel.c: the others' threads are not here; a new one may have the name of one */
struct kvm_vcpu *running_here(void);      /* _accel.c: what the calling thread runs, or NULL. Async-signal-safe */
int object_ioctl(enum object_kind kind, void *object, const struct client *c, unsigned long req, uintptr_t arg);
void object_put(enum object_kind kind, void *object); /* drops what install() took over */
int vcpu_run(struct kvm_vcpu *kv, const struct client *c); /* _accel.c: KVM_RUN, with kv->mutex held */

/* ---- vm.c, vcpu.c ------------------------------------------------------------------------------------------- */

int vm_create(const struct client *c, uint64_t type);
void vm_get(struct kvm_vm *vm);
void vm_put(struct kvm_vm *vm);
struct kvm_vcpu *vm_vcpu_by_id(struct kvm_vm *vm, uint32_t id);
int vcpu_create(struct kvm_vm *vm, const struct client *c, uint64_t id);
/* Makes most of the next vCPU of this process, before anybody asks for it: the file that will be mapped, which stays its own. -errno */
int vcpu_ahead(void);
void vcpu_destroy(struct kvm_vcpu *kv);
void vcpu_post(struct kvm_vcpu *kv, uint32_t event); /* sets VCPU_* and kicks */
void vcpu_kick(struct kvm_vcpu *kv);                 /* the engine polls, a halted vCPU looks again */
void vcpu_interrupt(struct kvm_vcpu *kv);            /* KVM_RUN returns -EINTR; async-signal-safe */
void vcpu_reset(struct kvm_vcpu *kv, bool init);
extern const struct irq_ops vm_irq_ops;

/* ---- memslot.c ------------------------------------------------------------------------------------------------ */

int memslot_set(struct kvm_vm *vm, const struct client *c, const struct kvm_userspace_memory_region *region);
int memslot_get_dirty(struct kvm_vm *vm, const struct client *c, const struct kvm_dirty_log *log);
int memslot_clear_dirty(struct kvm_vm *vm, const struct client *c, const struct kvm_clear_dirty_log *log);
void memslot_destroy_all(struct kvm_vm *vm);

/* ---- slotorder.c ---------------------------------------------------------------------------------------------- */

/* How many of these have a lower address in `field`, gpa or userspace_addr, by which they are in order. */
unsigned slots_below(struct memslot *const *slot, unsigned count, size_t field, uint64_t address);
int slot_order_reserve(struct slot_order *o); /* for one more: -ENOMEM */
void slot_order_add(struct slot_order *o, struct memslot *s);
void slot_order_remove(struct slot_order *o, const struct memslot *s);
/* Has a slot memory in [from, to)? It is no longer taken for writable throughout. */
bool slot_order_set_partial(struct slot_order *o, uint64_t from, uint64_t to);

/* Guest memory for the PV structures, from a vCPU inside the engine or from an ioctl: -EFAULT. */
bool vcpu_guest_has(struct kvm_vcpu *kv, uint64_t gpa); /* is it in a slot? */
int vcpu_guest_read(struct kvm_vcpu *kv, uint64_t gpa, void *buf, size_t n);
int vcpu_guest_write(struct kvm_vcpu *kv, uint64_t gpa, const void *buf, size_t n);

/* ---- backing.c: memory that is not there, or goes, or comes ------------------------------------------------------- */

void backing_add(struct kvm_vm *vm);
void backing_remove(struct kvm_vm *vm);
void backing_widen(uintptr_t addr, size_t size_bytes); /* a slot is there */
void backing_forked(void);
/* A run that ends with EFAULT: the client may have mapped memory there since. True: the guest goes on, as it does without the clocks'
 * memory; else *ret is KVM_RUN's. */
bool backing_has_come(struct kvm_vcpu *kv, const struct client *c, int *ret);

/* ---- sync.c --------------------------------------------------------------------------------------------------- */

/* Posts REQ_* to every vCPU but `self` and waits until each has served it or is outside of the engine. `self`: the
 * vCPU of the calling thread when it is inside, or NULL; it serves its own TLB requests while it waits. */
void vm_quiesce(struct kvm_vm *vm, uint32_t request, struct kvm_vcpu *self);
void vcpu_drain(struct kvm_vcpu *kv);
void vcpu_take_map(struct kvm_vcpu *kv); /* the VM's memory as it is now */
/* No vCPU of the machine is inside of the engine until vm_let_go(), and REQ_* are served before one is again. */
void vm_hold(struct kvm_vm *vm, uint32_t request);
void vm_let_go(struct kvm_vm *vm);
/* Sets in_guest, after whoever wants to be alone in the machine has finished. */
void vcpu_enter_engine(struct kvm_vcpu *kv);
void ops_pause_loop(struct vcpu *v);
void ops_exclusive_begin(struct vcpu *v);
void ops_exclusive_end(struct vcpu *v);
void ops_code_page(struct vcpu *v, struct memslot *slot, uint64_t page);
void ops_code_written(struct vcpu *v, uint64_t gpa, unsigned size, uint8_t holders);

/* ---- run.c: events in, exits out ---------------------------------------------------------------------------- */

void run_complete(struct kvm_vcpu *kv);         /* the client's answer to the previous exit goes into the access log */
bool run_sync_in(struct kvm_vcpu *kv, int *error); /* kvm_dirty_regs; false: *error */
void run_sync_out(struct kvm_vcpu *kv);         /* the fields that every exit fills */
int run_exit(struct kvm_vcpu *kv, enum cpu_exit_reason reason); /* 1: goes on; 0: to the client */
int run_inject(struct kvm_vcpu *kv);            /* before entry: budget to run with (1: one instruction, then again) */
bool run_has_event(struct kvm_vcpu *kv);        /* would wake a halted vCPU */
bool run_ready_for_injection(struct kvm_vcpu *kv);
void run_cancel(struct kvm_vcpu *kv);           /* the instruction in progress is given up */
int run_accept_ipis(struct kvm_vcpu *kv);       /* acts upon INIT and SIPI */

/* ---- ops.c: machine_ops ----------------------------------------------------------------------------------------- */

extern const struct machine_ops vm_machine_ops;

/* ---- vcpu_state.c, vcpu_sregs.c --------------------------------------------------------------------------- */

void state_get_regs(const struct kvm_vcpu *kv, struct kvm_regs *r);
int state_set_regs(struct kvm_vcpu *kv, const struct kvm_regs *r); /* 0 */
void state_get_sregs(struct kvm_vcpu *kv, struct kvm_sregs *s);
int state_set_sregs(struct kvm_vcpu *kv, const struct kvm_sregs *s);
void state_get_sregs2(struct kvm_vcpu *kv, struct kvm_sregs2 *s);
int state_set_sregs2(struct kvm_vcpu *kv, const struct kvm_sregs2 *s);
void state_get_events(struct kvm_vcpu *kv, struct kvm_vcpu_events *e);
int state_set_events(struct kvm_vcpu *kv, const struct kvm_vcpu_events *e);
void state_get_mp(struct kvm_vcpu *kv, struct kvm_mp_state *m);
int state_set_mp(struct kvm_vcpu *kv, const struct kvm_mp_state *m);
void state_get_debugregs(struct kvm_vcpu *kv, struct kvm_debugregs *d);
int state_set_debugregs(struct kvm_vcpu *kv, const struct kvm_debugregs *d);
int state_guest_debug(struct kvm_vcpu *kv, const struct kvm_guest_debug *d);
void state_get_fpu(struct kvm_vcpu *kv, struct kvm_fpu *f);
int state_set_fpu(struct kvm_vcpu *kv, const struct kvm_fpu *f);
void state_get_xsave(struct kvm_vcpu *kv, struct kvm_xsave *x);
int state_set_xsave(struct kvm_vcpu *kv, const struct kvm_xsave *x);
void state_get_xcrs(struct kvm_vcpu *kv, struct kvm_xcrs *x);
int state_set_xcrs(struct kvm_vcpu *kv, const struct kvm_xcrs *x);
enum { XSAVE2_BYTES = 4096 }; /* KVM_CAP_XSAVE2: the components offered fit the old struct kvm_xsave */
uint64_t vcpu_get_cr8(struct kvm_vcpu *kv);
void vcpu_set_cr8(struct kvm_vcpu *kv, uint64_t cr8);

/* ---- msrs.c, caps.c, clock.c, pv.c, coalesced.c, eventfd.c, stats.c ------------------------------------------------------ */

int msrs_get_index_list(const struct client *c, uintptr_t arg, bool feature);
int msrs_get_system(const struct client *c, uintptr_t arg);
int msrs_get(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg);
int msrs_set(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg);
int msrs_set_filter(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg);
void msrs_filter_free(struct msr_filter *f);
int ops_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value);
int ops_wrmsr(struct vcpu *v, uint32_t index, uint64_t value);
bool ops_msr_allowed(struct vcpu *v, uint32_t index, bool write);

int caps_processors(void); /* the host's, counted once: who confines itself asks before */
int caps_check(const struct kvm_vm *vm, uint64_t cap); /* vm NULL: on the system descriptor */
int caps_enable_vm(struct kvm_vm *vm, const struct kvm_enable_cap *cap);
int caps_enable_vcpu(struct kvm_vcpu *kv, const struct kvm_enable_cap *cap);

void clock_vm_init(struct kvm_vm *vm);
/* The client has written IA32_TSC: see clock.c. The TSC of a vCPU has moved: its clocks follow. */
void clock_tsc_written(struct kvm_vcpu *kv, uint64_t value);
void clock_tsc_moved(struct kvm_vcpu *kv);
void ops_tsc_moved(struct vcpu *v);
int clock_get(struct kvm_vm *vm, struct kvm_clock_data *d);
int clock_set(struct kvm_vm *vm, const struct kvm_clock_data *d);
int clock_write_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t value, bool host);
int clock_read_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t *value, bool host);
void clock_update(struct kvm_vcpu *kv); /* rewrites the vCPU's time page */
void clock_has_come(struct kvm_vcpu *kv); /* memory that kv->late was about, or may have */
int clock_ctrl(struct kvm_vcpu *kv);    /* KVM_KVMCLOCK_CTRL */
void clock_steal(struct kvm_vcpu *kv);
void pv_eoi_check(struct kvm_vcpu *kv); /* before interrupts are looked at: has the guest ended it? */
void pv_eoi_offer(struct kvm_vcpu *kv); /* after a vector was injected */
void vapic_publish(struct kvm_vcpu *kv);
void vapic_collect(struct kvm_vcpu *kv);
int vapic_set(struct kvm_vcpu *kv, uint64_t gpa);
bool ops_hypercall(struct vcpu *v);

int zone_register(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z);
int zone_unregister(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z);
bool zone_write(struct kvm_vm *vm, uint64_t addr, const void *data, unsigned size, bool pio);

int ioeventfd_set(struct kvm_vm *vm, const struct client *c, const struct kvm_ioeventfd *e);
bool ioeventfd_write(struct kvm_vm *vm, uint64_t addr, uint64_t data, unsigned size, bool pio);
int irqfd_set(struct kvm_vm *vm, const struct client *c, const struct kvm_irqfd *i);
void irqfd_acked(void *vm_owner, uint32_t gsi);
void eventfd_destroy_all(struct kvm_vm *vm);

int stats_vm_fd(struct kvm_vm *vm, const struct client *c);
int stats_vcpu_fd(struct kvm_vcpu *kv, const struct client *c);
int stats_open_again(const struct client *c, int fd); /* client_ops.give for a client in this process */
void stats_free(int fd, uint64_t *page);
void stats_publish(struct kvm_vcpu *kv);

/* ---- files.c: descriptors of clients in this process ---------------------------------------------------------------- */

int file_install(const struct client *c, enum object_kind kind, void *object, int map_fd);

#endif
