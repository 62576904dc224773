/* /dev/kvm found by means other than open() and stat(), behind the preload door. */
#include <dlfcn.h>
#include <sys/stat.h>

#include "../clients/machine.h"

int main(void)
{
    static const char *const old[] = {"__xstat", "__xstat64", "__lxstat", "__lxstat64"}; /* before glibc 2.33 */
    static const char *const mode[] = {"r", "r+e", "we"};
    struct stat st;
    int fd, bytes;

    for (unsigned i = 0; i < 3; i++) {
        FILE *f = fopen("/dev/kvm", mode[i]);
        CHECK(f && ioctl(fileno(f), KVM_GET_API_VERSION, 0) == 12);
        CHECK(!!(fcntl(fileno(f), F_GETFD) & FD_CLOEXEC) == (i > 0));
        fd = fileno(f);
        CHECK(!fclose(f));
        CHECK((f = tmpfile()) && fileno(f) == fd); /* the number is another file's now */
        CHECK(!ioctl(fd, FIONREAD, &bytes) && !bytes && !fclose(f));
    }
    for (unsigned i = 0; i < 4; i++) {
        int (*look)(int, const char *, struct stat *) = (__typeof__(look))dlsym(RTLD_DEFAULT, old[i]);
        memset(&st, 0, sizeof(st));
        CHECK(look && !look(1, "/dev/kvm", &st) && S_ISCHR(st.st_mode) && st.st_mode & 2);
        CHECK(!look(1, "/", &st) && S_ISDIR(st.st_mode));
    }
    puts("ok");
    return 0;
}
