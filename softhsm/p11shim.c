/*
 * A PKCS#11 module for tests and for the bench's latency model: it forwards every function of CK_FUNCTION_LIST (2.40) to another module and, as the
 * environment asks, behaves like hardware that is not at hand or that is failing.
 *
 *   SHIM_MODULE      the module to forward to (required)
 *   SHIM_GCM         how C_Encrypt with CKM_AES_GCM treats the IV:
 *                      back-init     12 zero bytes in, the IV written back by C_EncryptInit
 *                      back-encrypt  12 zero bytes in, the IV written back by C_Encrypt
 *                      back-never    12 zero bytes in, the IV kept secret (a broken device)
 *                      tail          no IV in, a 16-byte IV appended to the ciphertext
 *   SHIM_HIDE        mechanism numbers, separated by commas, that the token does not have: they are not listed, and
 *                    whatever names them answers CKR_MECHANISM_INVALID
 *   SHIM_LATENCY_US  microseconds that every call takes on top, as over a network
 *   SHIM_LATENCY_FILE  a file of four bytes, native order: microseconds that every call takes on top but C_...Init, which only
 *                    prepares what the next call sends. Read at every call, so that it may change while the module is in use
 *   SHIM_FAULTS      a file with one fault per line, read at every call. A fault is used up `count` times over all
 *                    processes together; the first line that fits the call counts. Fields, separated by blanks:
 *                      C_Encrypt | *      the function, or any
 *                      rv=0x30            the code to return without calling the module
 *                      rv=forward         no fault: with delay= or attr=
 *                      rv=empty           C_FindObjects finds nothing
 *                      rv=hang            never returns
 *                      rv=segv, rv=abort  ends the process as a bug in the module would
 *                      rv=logout          really logs out first, then goes on: for functions of a session
 *                      rv=close-all       really closes all sessions with the token first, then goes on
 *                      when=after         the module is called first and does its work; only the answer is lost
 *                      count=2 | always   how often (1)
 *                      skip=3             that many fitting calls pass first (0)
 *                      delay=50           milliseconds before anything else (0)
 *                      while=making       fits only while another thread is inside C_GenerateKey or C_GenerateKeyPair
 *                      attr=0x162 value=1 C_GetAttributeValue reports this CK_BBOOL whatever the module says
 *
 * It declares the PKCS#11 types it needs, so that no header has to be installed. Not for production: it trusts its
 * caller and its files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- PKCS#11 2.40, as far as it is needed; structures have natural alignment on Unix ---- */

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef struct {
  CK_BYTE major, minor;
} CK_VERSION;
typedef struct {
  CK_ULONG mechanism;
  void *pParameter;
  CK_ULONG ulParameterLen;
} CK_MECHANISM;
typedef struct {
  CK_ULONG type;
  void *pValue;
  CK_ULONG ulValueLen;
} CK_ATTRIBUTE;
typedef struct {
  CK_BYTE *pIv;
  CK_ULONG ulIvLen, ulIvBits;
  CK_BYTE *pAAD;
  CK_ULONG ulAADLen, ulTagBits;
} CK_GCM_PARAMS;

typedef struct {
  CK_ULONG slotID, state, flags, ulDeviceError;
} CK_SESSION_INFO;

#define CKR_OK 0x00UL
#define CKR_HOST_MEMORY 0x02UL
#define CKR_GENERAL_ERROR 0x05UL
#define CKR_ARGUMENTS_BAD 0x07UL
#define CKR_FUNCTION_NOT_SUPPORTED 0x54UL
#define CKR_MECHANISM_INVALID 0x70UL
#define CKR_MECHANISM_PARAM_INVALID 0x71UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKM_AES_GCM 0x1087UL

/*
 * Every function after C_GetFunctionList, in the order of CK_FUNCTION_LIST: name, parameters, arguments. Handles,
 * flags and lengths are all CK_ULONG; what is only passed on is void *. F is passed on as it is, M names a mechanism
 * in its second parameter, O has its own function below.
 */
#define FUNCTIONS(F, M, O)                                                                                             \
  F(C_GetSlotList, (CK_BYTE a, CK_ULONG *b, CK_ULONG *c), (a, b, c))                                                   \
  F(C_GetSlotInfo, (CK_ULONG a, void *b), (a, b))                                                                      \
  F(C_GetTokenInfo, (CK_ULONG a, void *b), (a, b))                                                                     \
  O(C_GetMechanismList, (CK_ULONG a, CK_ULONG *b, CK_ULONG *c), (a, b, c))                                             \
  O(C_GetMechanismInfo, (CK_ULONG a, CK_ULONG b, void *c), (a, b, c))                                                  \
  F(C_InitToken, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d), (a, b, c, d))                                       \
  F(C_InitPIN, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                        \
  F(C_SetPIN, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG e), (a, b, c, d, e))                           \
  F(C_OpenSession, (CK_ULONG a, CK_ULONG b, void *c, void *d, CK_ULONG *e), (a, b, c, d, e))                           \
  F(C_CloseSession, (CK_ULONG a), (a))                                                                                 \
  F(C_CloseAllSessions, (CK_ULONG a), (a))                                                                             \
  F(C_GetSessionInfo, (CK_ULONG a, void *b), (a, b))                                                                   \
  F(C_GetOperationState, (CK_ULONG a, CK_BYTE *b, CK_ULONG *c), (a, b, c))                                             \
  F(C_SetOperationState, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_ULONG d, CK_ULONG e), (a, b, c, d, e))                \
  F(C_Login, (CK_ULONG a, CK_ULONG b, CK_BYTE *c, CK_ULONG d), (a, b, c, d))                                           \
  F(C_Logout, (CK_ULONG a), (a))                                                                                       \
  F(C_CreateObject, (CK_ULONG a, CK_ATTRIBUTE *b, CK_ULONG c, CK_ULONG *d), (a, b, c, d))                              \
  F(C_CopyObject, (CK_ULONG a, CK_ULONG b, CK_ATTRIBUTE *c, CK_ULONG d, CK_ULONG *e), (a, b, c, d, e))                 \
  F(C_DestroyObject, (CK_ULONG a, CK_ULONG b), (a, b))                                                                 \
  F(C_GetObjectSize, (CK_ULONG a, CK_ULONG b, CK_ULONG *c), (a, b, c))                                                 \
  O(C_GetAttributeValue, (CK_ULONG a, CK_ULONG b, CK_ATTRIBUTE *c, CK_ULONG d), (a, b, c, d))                          \
  F(C_SetAttributeValue, (CK_ULONG a, CK_ULONG b, CK_ATTRIBUTE *c, CK_ULONG d), (a, b, c, d))                          \
  F(C_FindObjectsInit, (CK_ULONG a, CK_ATTRIBUTE *b, CK_ULONG c), (a, b, c))                                           \
  O(C_FindObjects, (CK_ULONG a, CK_ULONG *b, CK_ULONG c, CK_ULONG *d), (a, b, c, d))                                   \
  F(C_FindObjectsFinal, (CK_ULONG a), (a))                                                                             \
  O(C_EncryptInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                               \
  O(C_Encrypt, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                         \
  O(C_EncryptUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                   \
  F(C_EncryptFinal, (CK_ULONG a, CK_BYTE *b, CK_ULONG *c), (a, b, c))                                                  \
  M(C_DecryptInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                               \
  F(C_Decrypt, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                         \
  F(C_DecryptUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                   \
  F(C_DecryptFinal, (CK_ULONG a, CK_BYTE *b, CK_ULONG *c), (a, b, c))                                                  \
  M(C_DigestInit, (CK_ULONG a, CK_MECHANISM *b), (a, b))                                                               \
  F(C_Digest, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                          \
  F(C_DigestUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                   \
  F(C_DigestKey, (CK_ULONG a, CK_ULONG b), (a, b))                                                                     \
  F(C_DigestFinal, (CK_ULONG a, CK_BYTE *b, CK_ULONG *c), (a, b, c))                                                   \
  M(C_SignInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                                  \
  F(C_Sign, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                            \
  F(C_SignUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                     \
  F(C_SignFinal, (CK_ULONG a, CK_BYTE *b, CK_ULONG *c), (a, b, c))                                                     \
  M(C_SignRecoverInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                           \
  F(C_SignRecover, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                     \
  M(C_VerifyInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                                \
  F(C_Verify, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG e), (a, b, c, d, e))                           \
  F(C_VerifyUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                   \
  F(C_VerifyFinal, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                    \
  M(C_VerifyRecoverInit, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c), (a, b, c))                                         \
  F(C_VerifyRecover, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))                   \
  F(C_DigestEncryptUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))             \
  F(C_DecryptDigestUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))             \
  F(C_SignEncryptUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))               \
  F(C_DecryptVerifyUpdate, (CK_ULONG a, CK_BYTE *b, CK_ULONG c, CK_BYTE *d, CK_ULONG *e), (a, b, c, d, e))             \
  M(C_GenerateKey, (CK_ULONG a, CK_MECHANISM *b, CK_ATTRIBUTE *c, CK_ULONG d, CK_ULONG *e), (a, b, c, d, e))           \
  M(C_GenerateKeyPair,                                                                                                 \
    (CK_ULONG a, CK_MECHANISM *b, CK_ATTRIBUTE *c, CK_ULONG d, CK_ATTRIBUTE *e, CK_ULONG f, CK_ULONG *g, CK_ULONG *h), \
    (a, b, c, d, e, f, g, h))                                                                                          \
  M(C_WrapKey, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c, CK_ULONG d, CK_BYTE *e, CK_ULONG *f), (a, b, c, d, e, f))     \
  M(C_UnwrapKey,                                                                                                       \
    (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c, CK_BYTE *d, CK_ULONG e, CK_ATTRIBUTE *f, CK_ULONG g, CK_ULONG *h),       \
    (a, b, c, d, e, f, g, h))                                                                                          \
  M(C_DeriveKey, (CK_ULONG a, CK_MECHANISM *b, CK_ULONG c, CK_ATTRIBUTE *d, CK_ULONG e, CK_ULONG *f),                  \
    (a, b, c, d, e, f))                                                                                                \
  F(C_SeedRandom, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                     \
  F(C_GenerateRandom, (CK_ULONG a, CK_BYTE *b, CK_ULONG c), (a, b, c))                                                 \
  F(C_GetFunctionStatus, (CK_ULONG a), (a))                                                                            \
  F(C_CancelFunction, (CK_ULONG a), (a))                                                                               \
  F(C_WaitForSlotEvent, (CK_ULONG a, CK_ULONG *b, void *c), (a, b, c))

#define MEMBER(name, parameters, arguments) CK_RV(*name) parameters;
typedef struct FunctionList {
  CK_VERSION version;
  CK_RV (*C_Initialize)(void *a);
  CK_RV (*C_Finalize)(void *a);
  CK_RV (*C_GetInfo)(void *a);
  CK_RV (*C_GetFunctionList)(struct FunctionList **a);
  FUNCTIONS(MEMBER, MEMBER, MEMBER)
} FunctionList;
#undef MEMBER

static FunctionList *module;

/* ---- Faults ---- */

/* What a fault file says about one call. */
typedef struct {
  enum { FORWARD, RETURN, EMPTY, HANG, SEGV, ABORT, LOGOUT, CLOSE_ALL } action;
  CK_RV rv;
  int after;
  long delayMs;
  int whileMaking;
  int overridesAttribute;
  CK_ULONG attribute;
  CK_BYTE attributeValue;
} Fault;

/* How many threads are inside C_GenerateKey and C_GenerateKeyPair, delays included. */
static atomic_int making;

static void pauseFor(long microseconds) {
#ifdef PR_SET_TIMERSLACK
  /* Else the system adds 50 us of its own to every pause. */
  prctl(PR_SET_TIMERSLACK, 1000UL);
#endif
  struct timespec left = {microseconds / 1000000, (microseconds % 1000000) * 1000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

/* Fills in `fault` from the words of a line after the function's name; returns where the counts are. */
static void parseFault(char *words, Fault *fault, long *count, long *skip) {
  *count = 1;
  *skip = 0;
  char *rest = NULL;
  for (char *word = strtok_r(words, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
    char *value = strchr(word, '=');
    if (!value) continue;
    *value++ = '\0';
    if (!strcmp(word, "count")) *count = strcmp(value, "always") ? strtol(value, NULL, 0) : -1;
    else if (!strcmp(word, "skip")) *skip = strtol(value, NULL, 0);
    else if (!strcmp(word, "delay")) fault->delayMs = strtol(value, NULL, 0);
    else if (!strcmp(word, "when")) fault->after = !strcmp(value, "after");
    else if (!strcmp(word, "while")) fault->whileMaking = !strcmp(value, "making");
    else if (!strcmp(word, "attr")) {
      fault->overridesAttribute = 1;
      fault->attribute = strtoul(value, NULL, 0);
    } else if (!strcmp(word, "value")) fault->attributeValue = (CK_BYTE)strtoul(value, NULL, 0);
    else if (!strcmp(word, "rv")) {
      if (!strcmp(value, "forward")) fault->action = FORWARD;
      else if (!strcmp(value, "empty")) fault->action = EMPTY;
      else if (!strcmp(value, "hang")) fault->action = HANG;
      else if (!strcmp(value, "segv")) fault->action = SEGV;
      else if (!strcmp(value, "abort")) fault->action = ABORT;
      else if (!strcmp(value, "logout")) fault->action = LOGOUT;
      else if (!strcmp(value, "close-all")) fault->action = CLOSE_ALL;
      else {
        fault->action = RETURN;
        fault->rv = strtoul(value, NULL, 0);
      }
    }
  }
}

/* Opens the fault file locked against other processes. A test replaces the file whole, so the lock may be on an old one. */
static int openFaults(const char *path) {
  for (;;) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return -1;
    struct stat opened, current;
    if (flock(file, LOCK_EX) == 0 && fstat(file, &opened) == 0 && stat(path, &current) == 0 && opened.st_ino == current.st_ino)
      return file;
    close(file);
  }
}

/* Finds the first fault that fits `function` and uses it up once. The file is rewritten in place under its lock. */
static Fault takeFault(const char *function) {
  Fault none = {0}, found = {0};
  const char *path = getenv("SHIM_FAULTS");
  if (!path) return none;
  int file = openFaults(path);
  if (file < 0) return none;

  char text[16384], rewritten[sizeof text + 1024];
  ssize_t length = read(file, text, sizeof text - 1);
  size_t used = 0;
  int taken = 0, changed = 0;
  text[length > 0 ? length : 0] = '\0';

  char *rest = NULL;
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char words[1024], name[64] = "";
    snprintf(words, sizeof words, "%s", line);
    sscanf(words, "%63s", name);
    Fault fault = {0};
    long count, skip;
    parseFault(words, &fault, &count, &skip);
    int fits = !taken && (!strcmp(name, "*") || !strcmp(name, function)) && count != 0 &&
               (!fault.whileMaking || making > 0);
    if (!fits) {
      used += (size_t)snprintf(rewritten + used, sizeof rewritten - used, "%s\n", line);
      continue;
    }
    taken = 1;
    if (skip > 0) skip--;
    else {
      found = fault;
      if (count > 0) count--;
    }
    /* Written anew with the counts first; the old ones are dropped. */
    used += (size_t)snprintf(rewritten + used, sizeof rewritten - used, "%s skip=%ld ", name, skip);
    used += (size_t)(count < 0 ? snprintf(rewritten + used, sizeof rewritten - used, "count=always")
                               : snprintf(rewritten + used, sizeof rewritten - used, "count=%ld", count));
    char *word, *left = NULL;
    snprintf(words, sizeof words, "%s", line);
    for (word = strtok_r(words, " \t", &left); word; word = strtok_r(NULL, " \t", &left)) {
      if (strchr(word, '=') && strncmp(word, "count=", 6) && strncmp(word, "skip=", 5))
        used += (size_t)snprintf(rewritten + used, sizeof rewritten - used, " %s", word);
    }
    used += (size_t)snprintf(rewritten + used, sizeof rewritten - used, "\n");
    changed = 1;
  }
  if (changed && (pwrite(file, rewritten, used, 0) != (ssize_t)used || ftruncate(file, (off_t)used) != 0)) {
    fprintf(stderr, "p11shim: cannot rewrite %s: %s\n", path, strerror(errno));
    abort();
  }
  close(file); /* and with it the lock */
  return found;
}

/*
 * What happens before a call is forwarded. Does not return from a hang or a crash. `first` is the call's first argument,
 * a session where a fault asks for what only a session can do.
 */
/* Mapped once, so that a call costs a read of memory. */
static const volatile unsigned *sharedLatency;
static pthread_once_t latencyOnce = PTHREAD_ONCE_INIT;

static void mapLatency(void) {
  const char *path = getenv("SHIM_LATENCY_FILE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof(unsigned), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) sharedLatency = mapped;
}

static int onlyPrepares(const char *function) {
  size_t length = strlen(function);
  return length > 4 && !strcmp(function + length - 4, "Init") && strcmp(function, "C_FindObjectsInit");
}

static Fault before(const char *function, CK_ULONG first) {
  const char *latency = getenv("SHIM_LATENCY_US");
  if (latency) pauseFor(strtol(latency, NULL, 10));
  pthread_once(&latencyOnce, mapLatency);
  if (sharedLatency && *sharedLatency && !onlyPrepares(function)) pauseFor(*sharedLatency);
  Fault fault = takeFault(function);
  if (fault.delayMs > 0) pauseFor(fault.delayMs * 1000);
  if (fault.action == HANG) {
    for (;;) pause();
  }
  if (fault.action == SEGV) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
  }
  if (fault.action == ABORT) abort();
  if (fault.action == LOGOUT) module->C_Logout(first);
  if (fault.action == CLOSE_ALL) {
    CK_SESSION_INFO info;
    if (module->C_GetSessionInfo(first, &info) == CKR_OK) module->C_CloseAllSessions(info.slotID);
  }
  return fault;
}

static int isRefusedNow(const Fault *fault) {
  return fault->action == RETURN && !fault->after;
}

static CK_RV answer(const Fault *fault, CK_RV rv) {
  return fault->action == RETURN && fault->after && rv == CKR_OK ? fault->rv : rv;
}

/* ---- Mechanisms that are hidden ---- */

static int isHidden(CK_ULONG mechanism) {
  const char *next = getenv("SHIM_HIDE");
  while (next && *next) {
    char *end;
    CK_ULONG hidden = strtoul(next, &end, 0);
    if (end != next && hidden == mechanism) return 1;
    next = strchr(end, ',');
    if (next) next++;
  }
  return 0;
}

static CK_RV shim_C_GetMechanismList(CK_ULONG slot, CK_ULONG *list, CK_ULONG *count) {
  Fault fault = before("C_GetMechanismList", slot);
  if (isRefusedNow(&fault)) return fault.rv;
  if (!count) return CKR_ARGUMENTS_BAD;

  CK_ULONG all = 0;
  CK_RV rv = module->C_GetMechanismList(slot, NULL, &all);
  if (rv != CKR_OK) return rv;
  CK_ULONG *mechanisms = calloc(all + 1, sizeof *mechanisms);
  if (!mechanisms) return CKR_HOST_MEMORY;
  rv = module->C_GetMechanismList(slot, mechanisms, &all);
  CK_ULONG shown = 0;
  for (CK_ULONG i = 0; rv == CKR_OK && i < all; i++) {
    if (!isHidden(mechanisms[i])) mechanisms[shown++] = mechanisms[i];
  }
  if (rv == CKR_OK && list && *count < shown) rv = CKR_BUFFER_TOO_SMALL;
  else if (rv == CKR_OK && list) memcpy(list, mechanisms, shown * sizeof *mechanisms);
  *count = shown;
  free(mechanisms);
  return answer(&fault, rv);
}

static CK_RV shim_C_GetMechanismInfo(CK_ULONG slot, CK_ULONG mechanism, void *info) {
  Fault fault = before("C_GetMechanismInfo", slot);
  if (isRefusedNow(&fault)) return fault.rv;
  if (isHidden(mechanism)) return CKR_MECHANISM_INVALID;
  return answer(&fault, module->C_GetMechanismInfo(slot, mechanism, info));
}

/* ---- Whose IV: the variants of AES-GCM encryption ---- */

#define BACK_IV_BYTES 12
#define TAIL_IV_BYTES 16

/* The encryption under way in one session. Sessions are few, so a list does; its lock is held only to look up. */
typedef struct Encryption {
  struct Encryption *next;
  CK_ULONG session;
  enum { PLAIN, BACK, TAIL } kind;
  CK_BYTE iv[TAIL_IV_BYTES];
  CK_BYTE *callersIv; /* where to write the IV back after C_Encrypt; NULL when it is not to be written then */
} Encryption;

static Encryption *encryptions;
static pthread_mutex_t encryptionsLock = PTHREAD_MUTEX_INITIALIZER;

static Encryption *encryptionIn(CK_ULONG session) {
  pthread_mutex_lock(&encryptionsLock);
  Encryption *found = encryptions;
  while (found && found->session != session) found = found->next;
  if (!found && (found = calloc(1, sizeof *found))) {
    found->session = session;
    found->next = encryptions;
    encryptions = found;
  }
  pthread_mutex_unlock(&encryptionsLock);
  if (!found) abort();
  return found;
}

static CK_RV newIv(CK_BYTE *iv, size_t length) {
  FILE *random = fopen("/dev/urandom", "rb");
  if (!random) return CKR_GENERAL_ERROR;
  size_t got = fread(iv, 1, length, random);
  fclose(random);
  return got == length ? CKR_OK : CKR_GENERAL_ERROR;
}

static CK_RV encryptInitWithOwnIv(const char *mode, CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key) {
  CK_GCM_PARAMS *asked = mechanism->pParameter;
  int isTail = !strcmp(mode, "tail");
  CK_ULONG ivBytes = isTail ? TAIL_IV_BYTES : BACK_IV_BYTES;
  if (!asked || mechanism->ulParameterLen != sizeof *asked) return CKR_MECHANISM_PARAM_INVALID;
  if (asked->ulIvLen != (isTail ? 0 : BACK_IV_BYTES)) return CKR_MECHANISM_PARAM_INVALID;
  for (CK_ULONG i = 0; i < asked->ulIvLen; i++) {
    if (!asked->pIv || asked->pIv[i] != 0) return CKR_MECHANISM_PARAM_INVALID;
  }

  Encryption *own = encryptionIn(session);
  CK_RV rv = newIv(own->iv, ivBytes);
  if (rv != CKR_OK) return rv;
  CK_GCM_PARAMS given = *asked;
  given.pIv = own->iv;
  given.ulIvLen = ivBytes;
  given.ulIvBits = ivBytes * 8;
  CK_MECHANISM with = {CKM_AES_GCM, &given, sizeof given};
  rv = module->C_EncryptInit(session, &with, key);
  if (rv != CKR_OK) return rv;

  own->kind = isTail ? TAIL : BACK;
  own->callersIv = strcmp(mode, "back-encrypt") ? NULL : asked->pIv;
  if (!strcmp(mode, "back-init")) memcpy(asked->pIv, own->iv, BACK_IV_BYTES);
  return CKR_OK;
}

static CK_RV shim_C_EncryptInit(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key) {
  Fault fault = before("C_EncryptInit", session);
  if (isRefusedNow(&fault)) return fault.rv;
  if (mechanism && isHidden(mechanism->mechanism)) return CKR_MECHANISM_INVALID;
  const char *mode = getenv("SHIM_GCM");
  if (mode && mechanism && mechanism->mechanism == CKM_AES_GCM)
    return answer(&fault, encryptInitWithOwnIv(mode, session, mechanism, key));
  encryptionIn(session)->kind = PLAIN;
  return answer(&fault, module->C_EncryptInit(session, mechanism, key));
}

static CK_RV encryptWithTail(Encryption *own, CK_BYTE *data, CK_ULONG length, CK_BYTE *out, CK_ULONG *outLength) {
  /* Asked first, since the module's own answer ends the operation. */
  CK_ULONG need = 0, room = *outLength;
  CK_RV rv = module->C_Encrypt(own->session, data, length, NULL, &need);
  if (rv != CKR_OK) return rv;
  *outLength = need + TAIL_IV_BYTES;
  if (!out) return CKR_OK;
  if (room < need + TAIL_IV_BYTES) return CKR_BUFFER_TOO_SMALL;

  rv = module->C_Encrypt(own->session, data, length, out, &need);
  if (rv != CKR_OK) return rv;
  memcpy(out + need, own->iv, TAIL_IV_BYTES);
  *outLength = need + TAIL_IV_BYTES;
  own->kind = PLAIN;
  return CKR_OK;
}

static CK_RV shim_C_Encrypt(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *out, CK_ULONG *outLength) {
  Fault fault = before("C_Encrypt", session);
  if (isRefusedNow(&fault)) return fault.rv;
  Encryption *own = encryptionIn(session);
  if (own->kind == TAIL) return answer(&fault, encryptWithTail(own, data, length, out, outLength));

  CK_RV rv = module->C_Encrypt(session, data, length, out, outLength);
  if (rv == CKR_OK && out && own->kind == BACK) {
    if (own->callersIv) memcpy(own->callersIv, own->iv, BACK_IV_BYTES);
    own->callersIv = NULL;
    own->kind = PLAIN;
  }
  return answer(&fault, rv);
}

/* The variants are for one-part encryption; in parts they would need a second copy of the logic that nobody uses. */
static CK_RV shim_C_EncryptUpdate(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *out, CK_ULONG *outLength) {
  Fault fault = before("C_EncryptUpdate", session);
  if (isRefusedNow(&fault)) return fault.rv;
  if (encryptionIn(session)->kind != PLAIN) return CKR_FUNCTION_NOT_SUPPORTED;
  return answer(&fault, module->C_EncryptUpdate(session, data, length, out, outLength));
}

/* ---- Objects ---- */

static CK_RV shim_C_FindObjects(CK_ULONG session, CK_ULONG *objects, CK_ULONG room, CK_ULONG *count) {
  Fault fault = before("C_FindObjects", session);
  if (isRefusedNow(&fault)) return fault.rv;
  CK_RV rv = module->C_FindObjects(session, objects, room, count);
  if (rv == CKR_OK && fault.action == EMPTY) *count = 0;
  return answer(&fault, rv);
}

static CK_RV shim_C_GetAttributeValue(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count) {
  Fault fault = before("C_GetAttributeValue", session);
  if (isRefusedNow(&fault)) return fault.rv;
  CK_RV rv = module->C_GetAttributeValue(session, object, template, count);
  for (CK_ULONG i = 0; fault.overridesAttribute && rv == CKR_OK && i < count; i++) {
    if (template[i].type == fault.attribute && template[i].pValue && template[i].ulValueLen == 1)
      *(CK_BYTE *)template[i].pValue = fault.attributeValue;
  }
  return answer(&fault, rv);
}

/* ---- Everything else is passed on ---- */

#define FORWARDED(name, parameters, arguments)                                                                         \
  static CK_RV shim_##name parameters {                                                                                \
    Fault fault = before(#name, a);                                                                                       \
    if (isRefusedNow(&fault)) return fault.rv;                                                                         \
    return answer(&fault, module->name arguments);                                                                     \
  }

#define WITH_MECHANISM(name, parameters, arguments)                                                                    \
  static CK_RV shim_##name parameters {                                                                                \
    int makes = !strncmp(#name, "C_Generate", 10);                                                                     \
    making += makes;                                                                                                   \
    Fault fault = before(#name, a);                                                                                    \
    CK_RV rv;                                                                                                          \
    if (isRefusedNow(&fault)) rv = fault.rv;                                                                           \
    else if (b && isHidden(b->mechanism)) rv = CKR_MECHANISM_INVALID;                                                  \
    else rv = answer(&fault, module->name arguments);                                                                  \
    making -= makes;                                                                                                   \
    return rv;                                                                                                         \
  }

#define WRITTEN_ABOVE(name, parameters, arguments)

FUNCTIONS(FORWARDED, WITH_MECHANISM, WRITTEN_ABOVE)

static CK_RV shim_C_Initialize(void *arguments) {
  Fault fault = before("C_Initialize", 0);
  return isRefusedNow(&fault) ? fault.rv : answer(&fault, module->C_Initialize(arguments));
}

static CK_RV shim_C_Finalize(void *reserved) {
  Fault fault = before("C_Finalize", 0);
  return isRefusedNow(&fault) ? fault.rv : answer(&fault, module->C_Finalize(reserved));
}

static CK_RV shim_C_GetInfo(void *info) {
  Fault fault = before("C_GetInfo", 0);
  return isRefusedNow(&fault) ? fault.rv : answer(&fault, module->C_GetInfo(info));
}

CK_RV C_GetFunctionList(FunctionList **list);

#define ENTRY(name, parameters, arguments) .name = shim_##name,
static FunctionList functions = {
  .version = {2, 40},
  .C_Initialize = shim_C_Initialize,
  .C_Finalize = shim_C_Finalize,
  .C_GetInfo = shim_C_GetInfo,
  .C_GetFunctionList = C_GetFunctionList,
  FUNCTIONS(ENTRY, ENTRY, ENTRY)
};

static pthread_once_t loadOnce = PTHREAD_ONCE_INIT;

static void loadModule(void) {
  const char *path = getenv("SHIM_MODULE");
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!library) {
    fprintf(stderr, "p11shim: cannot load SHIM_MODULE: %s\n", path ? dlerror() : "it is not set");
    return;
  }
  CK_RV (*getFunctionList)(FunctionList **);
  *(void **)&getFunctionList = dlsym(library, "C_GetFunctionList");
  if (!getFunctionList || getFunctionList(&module) != CKR_OK) module = NULL;
}

/* The only symbol a caller looks up. */
CK_RV C_GetFunctionList(FunctionList **list) {
  pthread_once(&loadOnce, loadModule);
  if (!module) return CKR_GENERAL_ERROR;
  if (!list) return CKR_ARGUMENTS_BAD;
  *list = &functions;
  return CKR_OK;
}
