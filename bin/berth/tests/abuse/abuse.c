// What somebody who has broken into a container would try. Each attempt is harmless where it succeeds.
//
// `abuse NAME [ARGUMENT]` prints `NAME: won` and ends with 0, or `NAME: denied ERRNO` and ends with 1.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *argument = "";

// All return 0 if they succeed, else an error number.
static int result(long value) { return value < 0 ? errno : 0; }

static int opens(const char *path, int flags) {
    int file = open(path, flags | O_CLOEXEC);
    if (file < 0) return errno;
    close(file);
    return 0;
}

static int mounts(const char *kind, const char *options) {
    char place[] = "/tmp/abuse-XXXXXX";
    mkdir("/tmp", 01777);
    if (!mkdtemp(place)) return errno;
    int outcome = result(mount(kind, place, kind, 0, options));
    if (outcome == 0) umount2(place, MNT_DETACH);
    rmdir(place);
    return outcome;
}

static int cgroup_mount(void) { return mounts("cgroup", "memory"); }
static int cgroup2_mount(void) { return mounts("cgroup2", NULL); }
static int debugfs_mount(void) { return mounts("debugfs", NULL); }
static int tracefs_mount(void) { return mounts("tracefs", NULL); }
static int tmpfs_mount(void) { return mounts("tmpfs", NULL); }

static int userns_then_cgroup(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP) < 0) return errno;
    return mounts("cgroup", "memory");
}

static int unshare_then_mount(void) {
    if (unshare(CLONE_NEWNS) < 0) return errno;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return errno;
    return mounts("tmpfs", NULL);
}

static int unshare_user(void) { return result(unshare(CLONE_NEWUSER)); }

// A writable file of the cgroups, which could lift limits or allow devices.
static int cgroup_write(void) {
    static const char *files[] = {
        "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/devices.allow", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/release_agent", NULL};
    int last = ENOENT;
    for (const char **file = files; *file; file++) {
        int outcome = opens(*file, O_WRONLY);
        if (outcome == 0) return 0;
        if (outcome != ENOENT) last = outcome;
    }
    return last;
}

// The argument is `major:minor` of a disk of the host.
static int read_disk(void) {
    unsigned major = 0, minor = 0;
    char byte;
    sscanf(argument, "%u:%u", &major, &minor);
    unlink("/tmp/disk");
    if (mknod("/tmp/disk", S_IFBLK | 0600, makedev(major, minor)) < 0) return errno;
    int file = open("/tmp/disk", O_RDONLY | O_CLOEXEC);
    int error = errno;
    unlink("/tmp/disk");
    if (file < 0) return error;
    long count = read(file, &byte, 1);
    close(file);
    return count == 1 ? 0 : EIO;
}

// The same disk, mounted rather than read. What is wrong with its file system was not refused for who asks.
static int mount_disk(void) {
    static const char *kinds[] = {"ext4", "xfs", "btrfs", "erofs", "squashfs", NULL};
    unsigned major = 0, minor = 0;
    sscanf(argument, "%u:%u", &major, &minor);
    unlink("/tmp/disk");
    if (mknod("/tmp/disk", S_IFBLK | 0600, makedev(major, minor)) < 0) return errno;
    mkdir("/tmp/mounted", 0700);
    int last = ENODEV;
    for (const char **kind = kinds; *kind; kind++) {
        last = result(mount("/tmp/disk", "/tmp/mounted", *kind, MS_RDONLY, NULL));
        if (last == 0) umount2("/tmp/mounted", MNT_DETACH);
        if (last == 0 || last == EPERM || last == EACCES) break;
    }
    unlink("/tmp/disk");
    rmdir("/tmp/mounted");
    return last == EINVAL || last == ENODEV || last == EBUSY ? 0 : last;
}

static int core_pattern(void) { return opens("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int modprobe_path(void) { return opens("/proc/sys/kernel/modprobe", O_WRONLY); }
static int uevent_helper(void) { return opens("/sys/kernel/uevent_helper", O_WRONLY); }
static int sysrq(void) { return opens("/proc/sysrq-trigger", O_WRONLY); }

static int kcore(void) {
    char bytes[64];
    int file = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    long count = read(file, bytes, sizeof bytes);
    close(file);
    return count > 0 ? 0 : ENODATA;
}

// The file system's root by its number, past the container's own root.
static int open_by_handle(void) {
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } own;
    int mount_id;
    memset(&own, 0, sizeof own);
    own.handle.handle_bytes = MAX_HANDLE_SZ;
    const char *path = *argument ? argument : "/etc/hosts";
    if (name_to_handle_at(AT_FDCWD, path, &own.handle, &mount_id, 0) < 0) return errno;
    int place = open(path, O_RDONLY | O_CLOEXEC);
    if (place < 0) return errno;
    int file = open_by_handle_at(place, &own.handle, O_RDONLY);
    int error = errno;
    close(place);
    if (file < 0) return error;
    close(file);
    return 0;
}

// The argument is a path that only the host has.
static int host_root(void) {
    char path[4096];
    for (int pid = 1; pid < 64; pid++) {
        snprintf(path, sizeof path, "/proc/%d/root%s", pid, argument);
        if (access(path, F_OK) == 0) return 0;
        snprintf(path, sizeof path, "/proc/%d/cwd/../../../../../../../..%s", pid, argument);
        if (access(path, F_OK) == 0) return 0;
    }
    return ENOENT;
}

// Descriptors of others, through which their directories could be reached.
static int host_descriptors(void) {
    char path[4096];
    for (int pid = 1; pid < 64; pid++)
        for (int file = 0; file < 64; file++) {
            snprintf(path, sizeof path, "/proc/%d/fd/%d/../../../../../../..%s", pid, file, argument);
            if (access(path, F_OK) == 0) return 0;
        }
    return ENOENT;
}

// The argument is the number of a process outside.
static int trace(void) {
    pid_t pid = atoi(argument);
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0) return errno;
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return 0;
}

static int read_memory(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    return result(process_vm_readv(atoi(argument), &here, 1, &there, 1, 0));
}

static int write_memory(void) {
    char byte = 0;
    struct iovec here = {&byte, 1}, there = {(void *)0x10, 1};
    // Nothing is at that address: whoever may write is told so.
    int outcome = result(process_vm_writev(atoi(argument), &here, 1, &there, 1, 0));
    return outcome == EFAULT ? 0 : outcome;
}

static int join_first(void) {
    int file = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    return result(setns(file, CLONE_NEWNS));
}

// What is refused for its content was not refused for who asks.
static int load_module(void) {
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    long outcome = syscall(SYS_finit_module, file, "", 0);
    return outcome == 0 || errno == ENOEXEC ? 0 : errno;
}

static int load_bpf(void) {
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0}, {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attributes.insns = (uint64_t)(uintptr_t)code;
    attributes.insn_cnt = 2;
    attributes.license = (uint64_t)(uintptr_t) "GPL";
    return result(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
}

static int count_events(void) {
    struct perf_event_attr event;
    memset(&event, 0, sizeof event);
    event.type = PERF_TYPE_SOFTWARE;
    event.size = sizeof event;
    event.config = PERF_COUNT_SW_CPU_CLOCK;
    return result(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
}

static int keyring(void) { return result(syscall(SYS_keyctl, 0 /* get id */, -3 /* session */, 0)); }
static int fault_handler(void) { return result(syscall(SYS_userfaultfd, O_CLOEXEC)); }

static int uring(void) {
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    return result(syscall(SYS_io_uring_setup, 1, &params));
}

// The argument is the name of a socket that the host listens at.
static int abstract_socket(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (file < 0) return errno;
    strncpy(address.sun_path + 1, argument, sizeof address.sun_path - 2);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argument);
    return result(connect(file, (struct sockaddr *)&address, length));
}

// A socket of an engine, anywhere people put one.
static int engine_socket(void) {
    static const char *places[] = {"/run", "/var/run", "/tmp", "/var/lib", "/", NULL};
    for (const char **place = places; *place; place++) {
        DIR *folder = opendir(*place);
        struct dirent *entry;
        while (folder && (entry = readdir(folder)))
            if (entry->d_type == DT_SOCK) {
                closedir(folder);
                return 0;
            }
        if (folder) closedir(folder);
    }
    return ENOENT;
}

// A mount of the cgroups, or of anything of LXCFS, that can be written to.
static int writable_mount(void) {
    char line[4096];
    FILE *table = fopen("/proc/self/mountinfo", "re");
    if (!table) return errno;
    int found = ENOENT;
    while (fgets(line, sizeof line, table)) {
        char *kind = strstr(line, " - ");
        char *flags = strstr(line, " rw,");
        if (kind && flags && flags < kind && (strstr(kind, " - cgroup") || strstr(kind, "lxcfs"))) found = 0;
    }
    fclose(table);
    return found;
}

static int packet_socket(void) { return result(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)); }
static int clock_set(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return result(clock_settime(CLOCK_REALTIME, &now));
}
static int host_name(void) {
    char name[65];
    gethostname(name, sizeof name);
    return result(sethostname(name, strlen(name)));
}

// Runs as anybody; is owned by root and set-user-id where that counts.
static int set_user_id(void) { return geteuid() == 0 ? 0 : EPERM; }

// Waits for a process of the engine to come by, and tries to get at its program.
static int engine_program(void) {
    char path[64], target[4096];
    for (int round = 0; round < 3000; round++) {
        for (int pid = 2; pid < 40; pid++) {
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            long length = readlink(path, target, sizeof target - 1);
            if (length <= 0) continue;
            target[length] = 0;
            if (!strstr(target, "berth") || strstr(target, "abuse")) continue;
            int file = open(path, O_PATH | O_CLOEXEC);
            if (file < 0) continue;
            snprintf(path, sizeof path, "/proc/self/fd/%d", file);
            // The program is busy as long as it runs, and free a moment later.
            for (int again = 0; again < 100; again++) {
                if (opens(path, O_WRONLY) == 0) return 0;
                usleep(100);
            }
            close(file);
        }
        usleep(1000);
    }
    return ENOENT;
}

// Copies this program to a place where it could be executed from.
static int copy_to(int to) {
    char buffer[65536];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (from < 0) return errno;
    long length;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, length) != length) return errno;
    close(from);
    return 0;
}

// Executes what is open, with an argument that has it end at once.
static int executes(int file) {
    int outcome[2];
    if (pipe2(outcome, O_CLOEXEC) < 0) return errno;
    pid_t child = fork();
    if (child == 0) {
        char *words[] = {"abuse", "nothing", NULL}, *none[] = {NULL};
        fexecve(file, words, none);
        int error = errno;
        if (write(outcome[1], &error, sizeof error) < 0) _exit(3);
        _exit(1);
    }
    close(outcome[1]);
    int error = 0;
    if (read(outcome[0], &error, sizeof error) <= 0) error = 0;
    waitpid(child, NULL, 0);
    return error;
}

// Malware that leaves no file.
static int memory_exec(void) {
    int file = syscall(SYS_memfd_create, "abuse", 0x10 /* MFD_EXEC */);
    if (file < 0) file = syscall(SYS_memfd_create, "abuse", 0);
    if (file < 0) return errno;
    int error = copy_to(file);
    if (error) return error;
    // Executable by name as well as by descriptor.
    if (fchmod(file, 0755) < 0) return errno;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    close(file);
    return again < 0 ? errno : executes(again);
}

// A program that was not in the image, in the folder of the argument.
static int dropped(char *path, size_t size) {
    snprintf(path, size, "%s/dropped-%d", argument, getpid());
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (file < 0) return errno;
    int error = copy_to(file);
    close(file);
    return error;
}

static int dropped_exec(void) {
    char path[4096];
    int error = dropped(path, sizeof path);
    if (error) return error;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    error = executes(file);
    unlink(path);
    return error;
}

// As the dynamic loader does with a program or a library it is pointed at.
static int dropped_map(void) {
    char path[4096];
    int error = dropped(path, sizeof path);
    if (error) return error;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    void *place = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    error = place == MAP_FAILED ? errno : 0;
    unlink(path);
    return error;
}

// Another program in the place of one of the image.
static int replaced(void) { return opens(argument, O_WRONLY); }

static const struct {
    const char *name;
    int (*attempt)(void);
} attempts[] = {
    {"cgroup-mount", cgroup_mount}, {"cgroup2-mount", cgroup2_mount}, {"debugfs-mount", debugfs_mount},
    {"tracefs-mount", tracefs_mount}, {"tmpfs-mount", tmpfs_mount}, {"userns-then-cgroup", userns_then_cgroup},
    {"unshare-then-mount", unshare_then_mount}, {"unshare-user", unshare_user}, {"cgroup-write", cgroup_write},
    {"read-disk", read_disk}, {"mount-disk", mount_disk}, {"core-pattern", core_pattern}, {"modprobe-path", modprobe_path},
    {"uevent-helper", uevent_helper}, {"sysrq", sysrq}, {"kcore", kcore}, {"open-by-handle", open_by_handle},
    {"host-root", host_root}, {"host-descriptors", host_descriptors}, {"trace", trace}, {"read-memory", read_memory}, {"write-memory", write_memory},
    {"join-first", join_first}, {"load-module", load_module}, {"load-bpf", load_bpf}, {"count-events", count_events},
    {"keyring", keyring}, {"fault-handler", fault_handler}, {"uring", uring}, {"abstract-socket", abstract_socket},
    {"engine-socket", engine_socket}, {"writable-mount", writable_mount}, {"packet-socket", packet_socket},
    {"clock", clock_set}, {"host-name", host_name}, {"set-user-id", set_user_id}, {"engine-program", engine_program},
    {"memory-exec", memory_exec}, {"dropped-exec", dropped_exec}, {"dropped-map", dropped_map}, {"replaced", replaced},
};

int main(int count, char **words) {
    if (count < 2) return 2;
    if (count > 2) argument = words[2];
    for (size_t at = 0; at < sizeof attempts / sizeof *attempts; at++) {
        if (strcmp(words[1], attempts[at].name) != 0) continue;
        int error = attempts[at].attempt();
        if (error == 0)
            printf("%s: won\n", words[1]);
        else
            printf("%s: denied %s\n", words[1], strerrorname_np(error));
        return error != 0;
    }
    fprintf(stderr, "abuse: no attempt is called %s\n", words[1]);
    return 2;
}
