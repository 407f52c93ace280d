/* How fast this machine reads memory: each thread sums its share of a buffer far larger than any cache.
 * Prints the bytes per second of the best of several passes, since anything else that runs can only slow a pass down.
 *
 * cc -O3 -march=native -pthread read_bandwidth.c -o read_bandwidth && ./read_bandwidth THREADS [MIB] [PASSES] */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct share {
    const uint64_t *start;
    size_t words;
    int passes;
    double *seconds; /* of each pass, written by the first thread */
    pthread_barrier_t *barrier;
    uint64_t sum;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void *read_share(void *argument) {
    struct share *share = argument;
    for (int pass = 0; pass < share->passes; pass++) {
        pthread_barrier_wait(share->barrier);
        double start = now();
        /* 64 independent sums: several vector registers in flight, so no addition waits for another. */
        uint64_t sums[64] = {0};
        for (size_t i = 0; i + 64 <= share->words; i += 64)
            for (int lane = 0; lane < 64; lane++) sums[lane] += share->start[i + lane];
        for (int lane = 0; lane < 64; lane++) share->sum += sums[lane];
        pthread_barrier_wait(share->barrier); /* the pass ends when the last thread does */
        if (share->seconds) share->seconds[pass] = now() - start;
    }
    return NULL;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 2;
    size_t mebibytes = count > 2 ? strtoul(arguments[2], NULL, 10) : 1024;
    int passes = count > 3 ? atoi(arguments[3]) : 8;
    size_t words = (mebibytes << 20) / sizeof(uint64_t), each = words / threads;
    uint64_t *buffer = malloc(words * sizeof(uint64_t));
    struct share *shares = calloc(threads, sizeof *shares);
    pthread_t *handles = calloc(threads, sizeof *handles);
    double *seconds = calloc(passes, sizeof *seconds);
    if (!buffer || !shares || !handles || !seconds) {
        fprintf(stderr, "not enough memory for a buffer of %zu MiB\n", mebibytes);
        return 1;
    }
    for (size_t i = 0; i < words; i++) buffer[i] = i; /* touched, or all pages would be the one zero page */
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads);
    for (int t = 0; t < threads; t++) {
        shares[t] = (struct share){buffer + t * each, each, passes, t == 0 ? seconds : NULL, &barrier, 0};
        pthread_create(&handles[t], NULL, read_share, &shares[t]);
    }
    uint64_t sum = 0;
    for (int t = 0; t < threads; t++) {
        pthread_join(handles[t], NULL);
        sum += shares[t].sum;
    }
    double best = 1e30;
    for (int pass = 0; pass < passes; pass++)
        if (seconds[pass] < best) best = seconds[pass];
    /* The sum is printed so that the reads cannot be optimized away. */
    fprintf(stderr, "checksum %llu\n", (unsigned long long)sum);
    printf("%.0f\n", (double)each * threads * sizeof(uint64_t) / best);
    return 0;
}
