/* What a program asks of other files in a signal handler, on a stack of no more than SIGSTKSZ: nothing below it is touched. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../clients/machine.h"

enum { BYTES = 8192 /* SIGSTKSZ, where it is a constant */, BELOW = 1 << 20 };

static char directory[] = "/tmp/kvmish-test-XXXXXX";

static void asks(int signal)
{
    struct stat st;
    int fd;

    (void)signal;
    REFUSED(access("dangling", F_OK), ENOENT);
    REFUSED(stat("dangling", &st), ENOENT);
    CHECK((fd = open("link", O_RDWR)) >= 0 && !fstat(fd, &st) && !close(fd));
}

int main(void)
{
    struct sigaction action = {.sa_handler = asks, .sa_flags = SA_ONSTACK};
    stack_t stack = {.ss_size = BYTES};
    char *room = mmap(NULL, BELOW + BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(room != MAP_FAILED && !mprotect(room + BELOW, BYTES, PROT_READ | PROT_WRITE));
    stack.ss_sp = room + BELOW;
    CHECK(mkdtemp(directory) && !chdir(directory) && !symlink("nothing", "dangling") && !symlink("/dev/null", "link"));
    CHECK(!sigaltstack(&stack, NULL) && !sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
    CHECK(!unlink("dangling") && !unlink("link") && !rmdir(directory));
    puts("ok");
    return 0;
}
