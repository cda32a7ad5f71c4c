/* Kills its process in front of the step whose number STEP_KILL says: loaded in front of libc. A step is a call that
 * changes a file system: a file made, written, cut or filled up, a name made, changed or removed, a sync of metadata.
 * Writes into what is mapped, and at an offset, are none: the disk is measured by thousands of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long steps;
static long kill_at;

__attribute__((constructor)) static void read_number(void) {
    const char *number = getenv("STEP_KILL");
    kill_at = number ? atol(number) : 0;
}

static void step(void) {
    if (kill_at != 0 && atomic_fetch_add(&steps, 1) + 1 == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        if ((flags & O_CREAT) && access(path, F_OK) != 0)                                                              \
            step();                                                                                                    \
        return NEXT(name)(path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *bytes, size_t count) {
    struct stat found;
    if (file > 2 && fstat(file, &found) == 0 && S_ISREG(found.st_mode))
        step();
    return NEXT(write)(file, bytes, count);
}

#define CALL(name, parameters, arguments)                                                                              \
    int name parameters {                                                                                              \
        step();                                                                                                        \
        return NEXT(name) arguments;                                                                                   \
    }
CALL(mkdir, (const char *path, mode_t mode), (path, mode))
CALL(rename, (const char *from, const char *to), (from, to))
CALL(unlink, (const char *path), (path))
CALL(rmdir, (const char *path), (path))
CALL(fsync, (int file), (file))
CALL(ftruncate, (int file, off_t bytes), (file, bytes))
CALL(ftruncate64, (int file, off64_t bytes), (file, bytes))
CALL(fallocate, (int file, int mode, off_t from, off_t bytes), (file, mode, from, bytes))
CALL(fallocate64, (int file, int mode, off64_t from, off64_t bytes), (file, mode, from, bytes))
CALL(posix_fallocate, (int file, off_t from, off_t bytes), (file, from, bytes))
CALL(posix_fallocate64, (int file, off64_t from, off64_t bytes), (file, from, bytes))
