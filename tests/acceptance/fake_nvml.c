/* A libnvidia-ml.so.1 with one card, or (INIT_RESULT != 0) one that does not start. Only what nvidia-ml-py calls for
   a card's name and memory; the signatures are those of nvml.h. */
#include <string.h>

typedef struct { unsigned long long total, free, used; } nvmlMemory_t;

static int device;

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return INIT_RESULT; }
int nvmlShutdown(void) { return 0; }

const char *nvmlErrorString(int result) {
    return result == 18 ? "Driver/library version mismatch" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = &device;
    return index == 0 ? 0 : 2;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    if (handle != &device) return 2;
    strncpy(name, "NVIDIA GeForce RTX 5070", length);
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *handle, nvmlMemory_t *memory) {
    if (handle != &device) return 2;
    memory->total = 12ULL << 30;
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return 0;
}
