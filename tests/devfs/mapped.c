/* The file of a mapping that another one has replaced since we looked: it may be one that its process may only read, and we are root. */
#include "../../devfs/mapped.c"

#include <err.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

/* A shared mapping of it, at `at` if that is not NULL. */
static struct mapped mapping(void *at, int fd, int prot)
{
    void *p = mmap(at, PAGE, prot, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
    struct stat st;

    if (p == MAP_FAILED || fstat(fd, &st))
        err(2, "mmap");
    return (struct mapped){(uintptr_t)p, (uintptr_t)p + PAGE, st.st_dev, st.st_ino, prot & PROT_WRITE, ""};
}

int main(void)
{
    int first = fileno(tmpfile()), second = fileno(tmpfile()), fd;
    struct mapped m;

    if (ftruncate(first, PAGE) || ftruncate(second, PAGE))
        err(2, "ftruncate");
    m = mapping(NULL, first, PROT_READ | PROT_WRITE);
    fd = mapped_open(getpid(), &m);
    if (fd < 0)
        errx(1, "the file that is mapped: %s", strerror(-fd));
    close(fd);
    close(first);
    mapping((void *)m.start, second, PROT_READ);
    fd = mapped_open(getpid(), &m);
    if (fd >= 0)
        errx(1, "another file was opened");
    return 0;
}
