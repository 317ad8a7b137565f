/* A PKCS#11 module that passes each call on to a real one, but for the fault that a plan names: see faults.py.

   Preloaded, it also counts the points at which SoftHSM changes a file, and kills the process at one of them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* CK_FUNCTION_LIST, in its order (PKCS#11 v2.40, pkcs11f.h). */
#define FUNCTIONS(X) \
    X(Initialize) X(Finalize) X(GetInfo) X(GetFunctionList) X(GetSlotList) X(GetSlotInfo) X(GetTokenInfo) \
    X(GetMechanismList) X(GetMechanismInfo) X(InitToken) X(InitPIN) X(SetPIN) X(OpenSession) X(CloseSession) \
    X(CloseAllSessions) X(GetSessionInfo) X(GetOperationState) X(SetOperationState) X(Login) X(Logout) \
    X(CreateObject) X(CopyObject) X(DestroyObject) X(GetObjectSize) X(GetAttributeValue) X(SetAttributeValue) \
    X(FindObjectsInit) X(FindObjects) X(FindObjectsFinal) X(EncryptInit) X(Encrypt) X(EncryptUpdate) X(EncryptFinal) \
    X(DecryptInit) X(Decrypt) X(DecryptUpdate) X(DecryptFinal) X(DigestInit) X(Digest) X(DigestUpdate) X(DigestKey) \
    X(DigestFinal) X(SignInit) X(Sign) X(SignUpdate) X(SignFinal) X(SignRecoverInit) X(SignRecover) X(VerifyInit) \
    X(Verify) X(VerifyUpdate) X(VerifyFinal) X(VerifyRecoverInit) X(VerifyRecover) X(DigestEncryptUpdate) \
    X(DecryptDigestUpdate) X(SignEncryptUpdate) X(DecryptVerifyUpdate) X(GenerateKey) X(GenerateKeyPair) X(WrapKey) \
    X(UnwrapKey) X(DeriveKey) X(SeedRandom) X(GenerateRandom) X(GetFunctionStatus) X(CancelFunction) X(WaitForSlotEvent)

/* Arguments are numbers and pointers, eight at most. To pass on more than a function takes does no harm, in the calling
   conventions of x86-64 and AArch64. */
typedef unsigned long ulong;
typedef ulong (*call)(ulong, ulong, ulong, ulong, ulong, ulong, ulong, ulong);
#define PARAMETERS ulong a, ulong b, ulong c, ulong d, ulong e, ulong f, ulong g, ulong h
#define ARGUMENTS a, b, c, d, e, f, g, h

#define NUMBER(name) name,
enum { FUNCTIONS(NUMBER) COUNT };

struct list {
    unsigned char version[2];
    call functions[COUNT];
};
static struct list *real;

/* Whether the plan, "FUNCTION CKR", "FUNCTION hang" or either with "once", is about this call; its answer in *rv. */
static int planned(const char *name, ulong *rv) {
    const char *path = getenv("FAULTS_PLAN");
    FILE *plan = path ? fopen(path, "r") : NULL;
    char what[64], how[64], times[64] = "";
    int fields = plan ? fscanf(plan, "%63s %63s %63s", what, how, times) : 0;
    if (plan) fclose(plan);
    if (fields < 2 || strcmp(what + strlen("C_"), name)) return 0;
    if (!strcmp(times, "once")) unlink(path);
    if (!strcmp(how, "hang")) {
        while (!access(path, F_OK)) usleep(10000);
        return 0;
    }
    *rv = strtoul(how, NULL, 0);
    return 1;
}

#define PASS_ON(name) \
    static ulong pass_on_##name(PARAMETERS) { \
        ulong rv; \
        return planned(#name, &rv) ? rv : real->functions[name](ARGUMENTS); \
    }
FUNCTIONS(PASS_ON)

#define ENTRY(name) pass_on_##name,
static struct list ours = {.functions = {FUNCTIONS(ENTRY)}};

ulong C_GetFunctionList(struct list **list) {
    void *module = dlopen(getenv("FAULTS_MODULE"), RTLD_NOW | RTLD_LOCAL);
    ulong (*get)(struct list **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    ulong rv = get ? get(&real) : 5;
    if (rv) return rv;
    memcpy(ours.version, real->version, sizeof ours.version);
    *list = &ours;
    return 0;
}

static long points_left;

void kill_at(long point) { points_left = point; }

static void point(void) {
    if (points_left && !--points_left) kill(getpid(), SIGKILL);
}

int ftruncate(int file, off_t size) {
    int done = ((int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate"))(file, size);
    point();
    return done;
}

int fclose(FILE *file) {
    int written = (fcntl(fileno(file), F_GETFL) & O_ACCMODE) != O_RDONLY;
    int done = ((int (*)(FILE *))dlsym(RTLD_NEXT, "fclose"))(file);
    if (written) point();
    return done;
}

int remove(const char *path) {
    int done = ((int (*)(const char *))dlsym(RTLD_NEXT, "remove"))(path);
    point();
    return done;
}
