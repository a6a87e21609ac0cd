/* A stand-in for object storage: files of one folder over HTTP/1.1 on 127.0.0.1, with the delays, the caps and the faults of the
 * real one, at a CPU time that leaves the cores to what is measured.
 *
 *     object_server FOLDER [name=value ...]        serves until its standard input or its parent ends; prints its port
 *
 * GET (one byte range, or all), HEAD, and S3's ListObjectsV2; `/bucket/` before a key changes nothing, so that S3 clients find the
 * same objects. What is served is taken as unchanging: files are mapped at their first use. One thread, one epoll; a connection
 * answers one request after another. `/__counters`, `/__reset` and `/__set?name=value&...` are not counted and never fail.
 * Names and their values are those of `set_option` below. python -m benchmarks.object_server compiles and runs it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *tls;
#endif

#define BUCKET "bucket"
#define REQUEST_NBYTES 16384
#define PIECE_NBYTES (128 << 10)      /* of a body, sent at once and then waited for as the cap asks */
#define SENDFILE_NBYTES (64 << 10)    /* from which on one more call is cheaper than a copy */
#define KEPT_FILES 4096               /* open; what is beyond is sent from its mapping */
#define GRID_NS 100000                /* delays are rounded up to it: fewer wake-ups, each of more connections */
#define TICK_NS 1000000000LL          /* how often it looks whether its parent lives */
#define LIST_KEYS 1000

static void *needed(void *memory) {
    if (!memory) {
        perror("object_server: memory");
        exit(1);
    }
    return memory;
}

static int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- options, counters, chance ---- */

enum { SLOW_DOWN, RETRY_AFTER, RESET, TRUNCATED, WRONG_RANGE, STALL, FAULTS };
static const char *const FAULT_NAMES[FAULTS] = {"503", "503-retry-after", "reset", "truncated", "wrong-range", "stall"};
enum { GET, HEAD, LIST, OTHER, KINDS };
static const char *const KIND_NAMES[KINDS] = {"get", "head", "list", "other"};

static struct {
    double latency_ms, sigma;         /* before the first byte: fixed, or with sigma the median of a log-normal distribution */
    double cap_mb_s;                  /* 10^6 bytes a second and connection; 0: none */
    double fault_rate, stall_s;       /* share of requests that fail; how long one stalls amid its body */
    bool faults[FAULTS];              /* those that happen, equally often */
    const char *cert, *key;           /* PEM files: TLS */
} options = {.cap_mb_s = 70, .stall_s = 5, .faults = {1, 1, 1, 1, 1, 1}};

static struct {
    int64_t requests[KINDS], nbytes, missing, faults[FAULTS], accepted, most_connections, most_in_flight, cpu_ns, since_ns;
} counted;
static int64_t connections, in_flight;
static uint64_t chance_state = 1;

static double chance(void) { /* splitmix64, in [0, 1) */
    uint64_t z = (chance_state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int64_t delay_ns(void) {
    double ms = options.latency_ms;
    if (options.sigma > 0)
        ms *= exp(options.sigma * sqrt(-2 * log(1 - chance())) * cos(2 * M_PI * chance()));
    return (int64_t)(ms * 1e6);
}

static int drawn_fault(void) { /* -1: none */
    int many = 0;
    for (int each = 0; each < FAULTS; each++) many += options.faults[each];
    if (!many || options.fault_rate <= 0 || chance() >= options.fault_rate) return -1;
    int left = (int)(chance() * many);
    for (int each = 0; each < FAULTS; each++)
        if (options.faults[each] && !left--) return each;
    return -1;
}

static bool set_number(double *target, const char *value) {
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || !(number >= 0)) return false;
    *target = number;
    return true;
}

static bool set_faults(const char *names) { /* joined by commas; "all" */
    bool wanted[FAULTS] = {0};
    while (*names) {
        size_t length = strcspn(names, ",");
        bool known = length == 3 && !memcmp(names, "all", 3);
        for (int each = 0; each < FAULTS; each++) {
            bool same = strlen(FAULT_NAMES[each]) == length && !memcmp(names, FAULT_NAMES[each], length);
            wanted[each] |= same || (length == 3 && !memcmp(names, "all", 3));
            known |= same;
        }
        if (!known) return false;
        names += length + (names[length] == ',');
    }
    memcpy(options.faults, wanted, sizeof wanted);
    return true;
}

static bool set_option(const char *name, const char *value) {
    double seed;
    if (!strcmp(name, "latency_ms")) return set_number(&options.latency_ms, value);
    if (!strcmp(name, "sigma")) return set_number(&options.sigma, value);
    if (!strcmp(name, "cap_mb_s")) return set_number(&options.cap_mb_s, value);
    if (!strcmp(name, "fault_rate")) return set_number(&options.fault_rate, value);
    if (!strcmp(name, "stall_s")) return set_number(&options.stall_s, value);
    if (!strcmp(name, "faults")) return set_faults(value);
    if (!strcmp(name, "seed")) return set_number(&seed, value) && (chance_state = (uint64_t)seed, true);
    if (!strcmp(name, "cert")) return (options.cert = needed(strdup(value)), true);
    if (!strcmp(name, "key")) return (options.key = needed(strdup(value)), true);
    return false;
}

/* ---- text that grows ---- */

typedef struct {
    char *bytes;
    size_t length, room;
} text;

__attribute__((format(printf, 2, 3))) static void add(text *to, const char *format, ...) {
    for (;;) {
        va_list values;
        va_start(values, format);
        int wrote = vsnprintf(to->bytes + to->length, to->room - to->length, format, values);
        va_end(values);
        if (to->length + (size_t)wrote < to->room) {
            to->length += (size_t)wrote;
            return;
        }
        to->room = 2 * (to->length + (size_t)wrote) + 256;
        to->bytes = needed(realloc(to->bytes, to->room));
    }
}

static void add_escaped(text *to, const char *words) { /* for XML */
    for (; *words; words++)
        if (strchr("<>&\"", *words)) add(to, "&#%d;", *words);
        else add(to, "%c", *words);
}

static text counters(void) {
    text made = {0};
    add(&made, "{\"requests\": %lld", (long long)(counted.requests[GET] + counted.requests[HEAD] + counted.requests[LIST] + counted.requests[OTHER]));
    for (int each = 0; each < KINDS; each++) add(&made, ", \"%s\": %lld", KIND_NAMES[each], (long long)counted.requests[each]);
    add(&made, ", \"nbytes\": %lld, \"missing\": %lld, \"faults\": {", (long long)counted.nbytes, (long long)counted.missing);
    for (int each = 0; each < FAULTS; each++)
        add(&made, "%s\"%s\": %lld", each ? ", " : "", FAULT_NAMES[each], (long long)counted.faults[each]);
    add(&made, "}, \"connections\": %lld, \"accepted\": %lld, \"most_connections\": %lld, \"most_in_flight\": %lld", (long long)connections,
        (long long)counted.accepted, (long long)counted.most_connections, (long long)counted.most_in_flight);
    add(&made, ", \"cpu_s\": %.6f, \"wall_s\": %.6f}\n", (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - counted.cpu_ns) / 1e9,
        (double)(now_ns(CLOCK_MONOTONIC) - counted.since_ns) / 1e9);
    return made;
}

static void reset_counters(void) {
    memset(&counted, 0, sizeof counted);
    counted.most_connections = connections;
    counted.most_in_flight = in_flight;
    counted.cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    counted.since_ns = now_ns(CLOCK_MONOTONIC);
}

/* ---- objects: files, mapped at their first use and then kept ---- */

typedef struct {
    char *key, *tags; /* tags: the headers that describe it */
    char *bytes;
    int64_t nbytes;
    int file;
} object;

static int root_fd;
static object *objects; /* a table with open addressing */
static size_t object_room, object_count;

static size_t place_of(const object *table, size_t room, const char *key) {
    uint64_t hash = 14695981039346656037ULL;
    for (const char *at = key; *at; at++) hash = (hash ^ (unsigned char)*at) * 1099511628211ULL;
    size_t place = hash & (room - 1);
    while (table[place].key && strcmp(table[place].key, key)) place = (place + 1) & (room - 1);
    return place;
}

static void make_room(void) {
    if (2 * object_count < object_room) return;
    size_t room = object_room ? 2 * object_room : 1024;
    object *table = needed(calloc(room, sizeof *table));
    for (size_t at = 0; at < object_room; at++)
        if (objects[at].key) table[place_of(table, room, objects[at].key)] = objects[at];
    free(objects);
    objects = table;
    object_room = room;
}

static object *find_object(const char *key) { /* NULL: there is none */
    make_room();
    size_t place = place_of(objects, object_room, key);
    if (objects[place].key) return &objects[place];
    struct stat status;
    int file = *key ? openat(root_fd, key, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return NULL;
    char *bytes = NULL;
    if (fstat(file, &status) || !S_ISREG(status.st_mode)
        || (status.st_size && (bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0)) == MAP_FAILED)) {
        close(file);
        return NULL;
    }
    if (object_count >= KEPT_FILES) {
        close(file);
        file = -1;
    }
    text tags = {0};
    char date[64];
    struct tm parts;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&status.st_mtime, &parts));
    add(&tags, "ETag: \"%llx-%llx\"\r\nLast-Modified: %s\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n",
        (unsigned long long)status.st_ino, (unsigned long long)status.st_size, date);
    objects[place] = (object){needed(strdup(key)), tags.bytes, bytes, status.st_size, file};
    object_count++;
    return &objects[place];
}

/* ---- ListObjectsV2 ---- */

typedef struct {
    char **keys;
    size_t count, room;
} names;

static void walk(const char *folder, const char *prefix, names *found) { /* folder: "" or ends with a slash */
    int opened = openat(root_fd, *folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = opened < 0 ? NULL : fdopendir(opened);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        bool is_folder = entry->d_type == DT_DIR;
        char *key;
        if (asprintf(&key, "%s%s%s", folder, entry->d_name, is_folder ? "/" : "") < 0) needed(NULL);
        size_t shared = strlen(prefix) < strlen(key) ? strlen(prefix) : strlen(key);
        if (memcmp(key, prefix, shared)) { /* neither below the prefix nor on the way there */
            free(key);
        } else if (is_folder) {
            walk(key, prefix, found);
            free(key);
        } else if (strlen(key) >= strlen(prefix)) {
            if (found->count == found->room)
                found->keys = needed(realloc(found->keys, sizeof(char *) * (found->room = 2 * found->room + 64)));
            found->keys[found->count++] = key;
        } else {
            free(key);
        }
    }
    closedir(entries);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static text listing(const char *prefix, const char *delimiter, const char *after, int most) {
    names found = {0};
    walk("", prefix, &found);
    if (found.count) qsort(found.keys, found.count, sizeof(char *), by_name);
    text entries = {0}, made = {0};
    char *last = NULL; /* what a next page begins after */
    int given = 0;
    bool more = false;
    for (size_t at = 0; at < found.count && !more; at++) {
        const char *key = found.keys[at], *cut = *delimiter ? strstr(key + strlen(prefix), delimiter) : NULL;
        char *entry = needed(cut ? strndup(key, (size_t)(cut - key) + strlen(delimiter)) : strdup(key));
        if (strcmp(entry, after) <= 0 || (last && !strcmp(entry, last))) {
            free(entry);
            continue;
        }
        if (given == most) {
            more = true;
            free(entry);
            break;
        }
        struct stat status = {0};
        char date[64];
        struct tm parts;
        add(&entries, cut ? "<CommonPrefixes><Prefix>" : "<Contents><Key>");
        add_escaped(&entries, entry);
        if (cut) {
            add(&entries, "</Prefix></CommonPrefixes>");
        } else {
            fstatat(root_fd, key, &status, 0);
            strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S.000Z", gmtime_r(&status.st_mtime, &parts));
            add(&entries, "</Key><LastModified>%s</LastModified><ETag>&quot;%llx-%llx&quot;</ETag><Size>%lld</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>", date, (unsigned long long)status.st_ino,
                (unsigned long long)status.st_size, (long long)status.st_size);
        }
        free(last);
        last = entry;
        given++;
    }
    add(&made, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
        "<Name>" BUCKET "</Name><Prefix>");
    add_escaped(&made, prefix);
    add(&made, "</Prefix><KeyCount>%d</KeyCount><MaxKeys>%d</MaxKeys><IsTruncated>%s</IsTruncated>", given, most, more ? "true" : "false");
    if (more) {
        add(&made, "<NextContinuationToken>");
        add_escaped(&made, last);
        add(&made, "</NextContinuationToken>");
    }
    add(&made, "%s</ListBucketResult>", entries.bytes ? entries.bytes : "");
    for (size_t at = 0; at < found.count; at++) free(found.keys[at]);
    free(found.keys);
    free(entries.bytes);
    free(last);
    return made;
}

/* ---- connections, and the times at which they go on: a heap ---- */

typedef struct {
    int socket;
    enum { READING, WAITING, SENDING } state; /* WAITING: for a time of the heap */
    bool may_read, close_after, reset, is_counted;
    size_t asked;                      /* bytes of requests in `request` */
    char request[REQUEST_NBYTES + 1];
    text head, own;                    /* own: a body that is no object's */
    const char *body;
    int file;                          /* that the body is in, from file_start on; -1: none */
    int64_t file_start;
    int64_t head_sent, body_sent, body_nbytes, begin_ns, hold_at, hold_ns, due_ns;
    size_t heap_at;                    /* + 1; 0: not in the heap */
#ifdef WITH_TLS
    SSL *ssl;
#endif
} connection;

static int poll_fd, timer_fd;
static connection **heap, **dead; /* dead: freed when no event of this round can name them any more */
static size_t heap_count, heap_room, dead_count, dead_room;

static void heap_put(size_t at, connection *each) {
    heap[at] = each;
    each->heap_at = at + 1;
}

static void heap_sift(size_t at) {
    connection *moved = heap[at];
    for (; at && heap[(at - 1) / 2]->due_ns > moved->due_ns; at = (at - 1) / 2) heap_put(at, heap[(at - 1) / 2]);
    for (size_t child; (child = 2 * at + 1) < heap_count; at = child) {
        if (child + 1 < heap_count && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= moved->due_ns) break;
        heap_put(at, heap[child]);
    }
    heap_put(at, moved);
}

static void wait_until(connection *each, int64_t due_ns) {
    each->state = WAITING;
    each->due_ns = (due_ns + GRID_NS - 1) / GRID_NS * GRID_NS;
    if (heap_count == heap_room) heap = needed(realloc(heap, sizeof *heap * (heap_room = 2 * heap_room + 64)));
    heap[heap_count++] = each;
    heap_sift(heap_count - 1);
}

static void wait_no_more(connection *each) {
    if (!each->heap_at) return;
    size_t at = each->heap_at - 1;
    each->heap_at = 0;
    connection *last = heap[--heap_count];
    if (last != each) {
        heap_put(at, last);
        heap_sift(at);
    }
}

static void end_answer(connection *each) {
    free(each->own.bytes);
    each->own = (text){0};
    in_flight -= each->is_counted;
    each->is_counted = false;
}

static void drop(connection *each) {
    if (each->socket < 0) return;
    wait_no_more(each);
    end_answer(each);
    if (each->reset) {
        struct linger at_once = {1, 0};
        setsockopt(each->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
#ifdef WITH_TLS
    if (each->ssl) SSL_free(each->ssl);
#endif
    close(each->socket);
    each->socket = -1;
    connections--;
    free(each->head.bytes);
    if (dead_count == dead_room) dead = needed(realloc(dead, sizeof *dead * (dead_room = 2 * dead_room + 64)));
    dead[dead_count++] = each;
}

/* Bytes that went, 0 where the socket takes none now, -1 where it is gone. */
static ssize_t sent(connection *each, struct iovec *pieces, int count) {
#ifdef WITH_TLS
    if (each->ssl) {
        ERR_clear_error();
        int wrote = SSL_write(each->ssl, pieces[0].iov_base, (int)pieces[0].iov_len);
        if (wrote > 0) return wrote;
        int why = SSL_get_error(each->ssl, wrote);
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    ssize_t wrote = sendmsg(each->socket, &message, MSG_NOSIGNAL);
    return wrote >= 0 ? wrote : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

/* The same, of an object's bytes alone, which the kernel need not copy. */
static ssize_t sent_from_file(connection *each, int64_t nbytes) {
    if (each->head_sent < (int64_t)each->head.length) {
        ssize_t wrote = send(each->socket, each->head.bytes + each->head_sent, each->head.length - (size_t)each->head_sent, MSG_NOSIGNAL | MSG_MORE);
        return wrote >= 0 ? wrote : errno == EAGAIN || errno == EINTR ? 0 : -1;
    }
    off_t at = each->file_start + each->body_sent;
    ssize_t wrote = sendfile(each->socket, each->file, &at, (size_t)nbytes);
    return wrote >= 0 ? wrote : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

/* The same for what came; 0 also stands for nothing yet. */
static ssize_t received(connection *each, char *to, size_t room) {
#ifdef WITH_TLS
    if (each->ssl) {
        ERR_clear_error();
        int got = SSL_read(each->ssl, to, (int)room);
        if (got > 0) return got;
        int why = SSL_get_error(each->ssl, got);
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    ssize_t got = recv(each->socket, to, room, 0);
    return got > 0 ? got : got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

/* ---- answers ---- */

static int64_t cap_due_ns(const connection *each, int64_t nbytes) { /* when so many bytes of the body may have gone */
    return each->begin_ns + (options.cap_mb_s > 0 ? (int64_t)((double)nbytes * 1e3 / options.cap_mb_s) : 0);
}

static void send_on(connection *each) { /* leaves the state READING where the answer is done */
    each->state = SENDING;
    while (each->head_sent < (int64_t)each->head.length || each->body_sent < each->body_nbytes || each->hold_ns) {
        if (each->hold_ns && each->body_sent >= each->hold_at && each->head_sent == (int64_t)each->head.length) {
            int64_t hold = each->hold_ns;
            each->hold_ns = 0;
            each->begin_ns += hold;
            wait_until(each, now_ns(CLOCK_MONOTONIC) + hold);
            return;
        }
        int64_t stop = (each->body_sent / PIECE_NBYTES + 1) * PIECE_NBYTES;
        if (stop > each->body_nbytes) stop = each->body_nbytes;
        if (each->hold_ns && stop > each->hold_at) stop = each->hold_at;
        int64_t due = cap_due_ns(each, stop);
        if (due > now_ns(CLOCK_MONOTONIC)) {
            wait_until(each, due);
            return;
        }
        struct iovec pieces[2];
        int count = 0;
        if (each->head_sent < (int64_t)each->head.length)
            pieces[count++] = (struct iovec){each->head.bytes + each->head_sent, each->head.length - (size_t)each->head_sent};
        if (each->body_sent < stop)
            pieces[count++] = (struct iovec){(char *)each->body + each->body_sent, (size_t)(stop - each->body_sent)};
        if (!count) continue;
        int64_t in_piece = stop - each->body_sent;
        ssize_t went = in_piece < SENDFILE_NBYTES || each->file < 0 ? sent(each, pieces, count) : sent_from_file(each, in_piece);
        if (went < 0) drop(each);
        if (went <= 0) return;
        int64_t of_head = (int64_t)each->head.length - each->head_sent;
        if (of_head > went) of_head = went;
        each->head_sent += of_head;
        each->body_sent += went - of_head;
        if (each->is_counted) counted.nbytes += went - of_head;
    }
    end_answer(each);
    if (each->close_after) drop(each);
    else each->state = READING;
}

static void go_on(connection *each) { /* after a wait */
    if (each->reset) drop(each);
    else send_on(each);
}

static void answer_words(connection *each, const char *status, const char *kind, bool has_body, const char *more) {
    each->body = each->own.bytes;
    each->body_nbytes = has_body ? (int64_t)each->own.length : 0;
    add(&each->head, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s\r\n", status, kind, each->own.length, more,
        each->close_after ? "Connection: close\r\n" : "");
}

static void answer_error(connection *each, const char *status, const char *code, bool has_body, const char *more) {
    add(&each->own, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>", code, status);
    answer_words(each, status, "application/xml", has_body, more);
}

/* [*start, *stop) of a Range header for an object of so many bytes; 1: a range, 0: all of it, -1: none that there is. */
static int range_of(const char *header, int64_t nbytes, int64_t *start, int64_t *stop) {
    *start = 0, *stop = nbytes;
    if (!header || strncasecmp(header, "bytes=", 6)) return 0;
    const char *at = header + 6;
    char *end;
    if (*at == '-') { /* the last bytes */
        int64_t last = strtoll(at + 1, &end, 10);
        if (end == at + 1 || *end != '\r') return 0;
        *start = last < nbytes ? nbytes - last : 0;
        return last > 0 && nbytes ? 1 : -1;
    }
    *start = strtoll(at, &end, 10);
    if (end == at || *end != '-') return *start = 0, 0;
    at = end + 1;
    int64_t last = strtoll(at, &end, 10);
    if (*end != '\r') return *start = 0, 0; /* several ranges: all is an answer that HTTP allows */
    if (end != at && last + 1 < nbytes) *stop = last + 1;
    return *start < *stop ? 1 : -1;
}

static void answer_object(connection *each, const object *found, const char *range, bool has_body, int fault) {
    int64_t start, stop;
    int is_part = range_of(range, found->nbytes, &start, &stop);
    if (is_part < 0) {
        char more[64];
        snprintf(more, sizeof more, "Content-Range: bytes */%lld\r\n", (long long)found->nbytes);
        answer_error(each, "416 Range Not Satisfiable", "InvalidRange", has_body, more);
        return;
    }
    if (fault == WRONG_RANGE && is_part) { /* as many bytes of elsewhere, where there are so many */
        if (start) start--, stop--;
        else if (stop < found->nbytes) start++, stop++;
        else start++;
    }
    each->body = found->bytes + start;
    each->file_start = start;
    each->file = found->file;
#ifdef WITH_TLS
    if (each->ssl) each->file = -1;
#endif
    each->body_nbytes = has_body ? stop - start : 0;
    add(&each->head, "HTTP/1.1 %s\r\nContent-Length: %lld\r\n", is_part ? "206 Partial Content" : "200 OK", (long long)(stop - start));
    if (is_part)
        add(&each->head, "Content-Range: bytes %lld-%lld/%lld\r\n", (long long)start, (long long)stop - 1, (long long)found->nbytes);
    add(&each->head, "%s%s\r\n", found->tags, each->close_after ? "Connection: close\r\n" : "");
}

static void unescape(char *words, bool is_query) { /* in place */
    char *to = words;
    for (; *words; words++) {
        if (*words == '%' && isxdigit((unsigned char)words[1]) && isxdigit((unsigned char)words[2])) {
            char digits[3] = {words[1], words[2], 0};
            *to++ = (char)strtol(digits, NULL, 16);
            words += 2;
        } else {
            *to++ = is_query && *words == '+' ? ' ' : *words;
        }
    }
    *to = 0;
}

static const char *header_of(const char *headers, const char *name) { /* its value, up to \r; headers begin after \r\n */
    size_t length = strlen(name);
    for (const char *line = headers; line; line = strstr(line, "\r\n"), line = line ? line + 2 : NULL)
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            line += length + 1;
            return line + strspn(line, " ");
        }
    return NULL;
}

static void answer_control(connection *each, const char *path, char *query) {
    text made = counters(); /* what was counted until now, also for a reset */
    bool is_known = !strcmp(path, "/__counters");
    if (!strcmp(path, "/__reset")) is_known = true, reset_counters();
    if (!strcmp(path, "/__set")) {
        is_known = true;
        for (char *pair; (pair = strsep(&query, "&"));) {
            char *value = strchr(pair, '=');
            if (value) *value++ = 0, unescape(value, true);
            is_known &= value && set_option(pair, value);
        }
    }
    each->own = made;
    answer_words(each, is_known ? "200 OK" : "400 Bad Request", "application/json", true, "");
}

static void answer_list(connection *each, char *query, bool has_body) {
    const char *prefix = "", *delimiter = "", *token = "", *after = "";
    int most = LIST_KEYS;
    for (char *pair; (pair = strsep(&query, "&"));) {
        char *value = strchr(pair, '=');
        if (!value) continue;
        *value++ = 0;
        unescape(value, true);
        if (!strcmp(pair, "prefix")) prefix = value;
        else if (!strcmp(pair, "delimiter")) delimiter = value;
        else if (!strcmp(pair, "continuation-token")) token = value;
        else if (!strcmp(pair, "start-after")) after = value;
        else if (!strcmp(pair, "max-keys") && atoi(value) >= 0 && atoi(value) < most) most = atoi(value);
    }
    each->own = listing(prefix, delimiter, *token ? token : after, most);
    answer_words(each, "200 OK", "application/xml", has_body, "");
}

/* Prepares the answer to the request that ends before `headers_end`, and its time. */
static void answer(connection *each, char *headers_end) {
    headers_end[-2] = 0; /* keeps the \r\n of the last header */
    char *line_end = strstr(each->request, "\r\n"), *headers = line_end ? line_end + 2 : headers_end - 2;
    if (line_end) *line_end = 0;
    char *rest = each->request, *method = strsep(&rest, " "), *query = rest ? strsep(&rest, " ") : NULL;
    char *path = query ? strsep(&query, "?") : NULL;
    const char *range = header_of(headers, "Range"), *closes = header_of(headers, "Connection");
    bool has_body = strcmp(method, "HEAD"), is_get = !strcmp(method, "GET");
    each->head.length = 0;
    each->head_sent = each->body_sent = each->body_nbytes = each->hold_ns = 0;
    each->file = -1;
    each->begin_ns = now_ns(CLOCK_MONOTONIC);
    each->close_after = closes && !strncasecmp(closes, "close", 5);
    if (!path) { /* no line of HTTP */
        each->close_after = true;
        answer_error(each, "400 Bad Request", "BadRequest", true, "");
        send_on(each);
        return;
    }
    if (!strncmp(path, "/__", 3)) {
        answer_control(each, path, query);
        send_on(each);
        return;
    }
    unescape(path, false);
    while (*path == '/') path++;
    bool is_bucket = !strncmp(path, BUCKET, sizeof BUCKET - 1) && (!path[sizeof BUCKET - 1] || path[sizeof BUCKET - 1] == '/');
    if (is_bucket) path += sizeof BUCKET - 1;
    while (*path == '/') path++;
    bool is_list = is_get && query && is_bucket && !*path && strstr(query, "list-type=2");
    counted.requests[is_list ? LIST : is_get ? GET : has_body ? OTHER : HEAD]++;
    each->is_counted = true;
    if (++in_flight > counted.most_in_flight) counted.most_in_flight = in_flight;

    int fault = drawn_fault();
    if (fault >= TRUNCATED && (!is_get || is_list || (fault == WRONG_RANGE && !range))) fault = SLOW_DOWN;
    bool is_outside = strstr(path, "../") || !strcmp(path, "..");
    object *found = is_list || is_outside || (!is_get && has_body) ? NULL : find_object(path);
    if (fault == SLOW_DOWN || fault == RETRY_AFTER) {
        answer_error(each, "503 Slow Down", "SlowDown", has_body, fault == RETRY_AFTER ? "Retry-After: 1\r\n" : "");
    } else if (!is_get && has_body) {
        each->close_after = true; /* its body was not read */
        answer_error(each, "405 Method Not Allowed", "MethodNotAllowed", true, "");
    } else if (is_list) {
        answer_list(each, query, has_body);
    } else if (found) {
        answer_object(each, found, range, has_body, fault);
    } else if (is_bucket && !*path) {
        answer_words(each, "200 OK", "application/xml", has_body, "");
    } else {
        counted.missing++;
        answer_error(each, "404 Not Found", "NoSuchKey", has_body, "");
    }
    if (fault >= 0) counted.faults[fault]++;
    each->reset = fault == RESET;
    if (fault == TRUNCATED) each->body_nbytes /= 2, each->close_after = true;
    if (fault == STALL) each->hold_at = each->body_nbytes / 2, each->hold_ns = (int64_t)(options.stall_s * 1e9);
    each->begin_ns += delay_ns();
    /* The wait before the first piece, and for the first piece by the cap, in one. */
    wait_until(each, cap_due_ns(each, each->body_nbytes < PIECE_NBYTES ? each->body_nbytes : PIECE_NBYTES));
}

static void read_on(connection *each) {
    while (each->state == READING && each->socket >= 0) {
        each->request[each->asked] = 0;
        char *end = each->asked ? strstr(each->request, "\r\n\r\n") : NULL;
        if (end) {
            size_t taken = (size_t)(end + 4 - each->request);
            answer(each, end + 4);
            each->asked -= taken;
            memmove(each->request, each->request + taken, each->asked);
            continue;
        }
        if (!each->may_read) return;
        ssize_t got = each->asked < REQUEST_NBYTES ? received(each, each->request + each->asked, REQUEST_NBYTES - each->asked) : -1;
        if (got < 0) drop(each);
        else if (!got) each->may_read = false;
        else each->asked += (size_t)got;
    }
}

/* ---- the process ---- */

static void accept_all(int listener) {
    for (int socket; (socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int on = 1;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection *each = needed(calloc(1, sizeof *each));
        each->socket = socket;
#ifdef WITH_TLS
        if (tls) {
            each->ssl = needed(SSL_new(tls));
            SSL_set_fd(each->ssl, socket);
            SSL_set_accept_state(each->ssl);
        }
#endif
        counted.accepted++;
        if (++connections > counted.most_connections) counted.most_connections = connections;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = each};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, socket, &event)) drop(each);
    }
}

static int listening(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)
        || getsockname(listener, (struct sockaddr *)&address, &length)) {
        perror("object_server: listen");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void watch(int file, void *name, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = name};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, file, &event); /* standard input may be a file, which cannot be watched: then the parent is */
}

static void start_tls(void) {
    if (!options.cert) return;
#ifdef WITH_TLS
    tls = needed(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (SSL_CTX_use_certificate_chain_file(tls, options.cert) == 1 && SSL_CTX_use_PrivateKey_file(tls, options.key, SSL_FILETYPE_PEM) == 1) return;
    fprintf(stderr, "object_server: this certificate cannot be used: %s\n", options.cert);
#else
    fprintf(stderr, "object_server: compiled without TLS: there were no headers of OpenSSL\n");
#endif
    exit(1);
}

int main(int count, char **given) {
    root_fd = count > 1 ? open(given[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (root_fd < 0) {
        fprintf(stderr, "object_server: FOLDER [name=value ...]: %s\n", count > 1 ? strerror(errno) : "no folder is given");
        return 2;
    }
    for (int at = 2; at < count; at++) {
        char *value = strchr(given[at], '=');
        if (value) *value++ = 0;
        if (!value || !set_option(given[at], value)) {
            fprintf(stderr, "object_server: %s: no such option, or no such value\n", given[at]);
            return 2;
        }
    }
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    start_tls();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    static char input, timer, door;
    watch(0, &input, EPOLLIN | EPOLLRDHUP);
    watch(timer_fd, &timer, EPOLLIN | EPOLLET);
    reset_counters();
    pid_t parent = getppid();
    int listener = listening();
    watch(listener, &door, EPOLLIN);
    for (int64_t armed = 0;;) {
        int64_t tick = now_ns(CLOCK_MONOTONIC) + TICK_NS, next = heap_count && heap[0]->due_ns < tick ? heap[0]->due_ns : tick;
        if (next != armed) {
            struct itimerspec when = {.it_value = {next / 1000000000, next % 1000000000}};
            timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
            armed = next;
        }
        struct epoll_event events[256];
        int happened = epoll_wait(poll_fd, events, 256, -1);
        for (int at = 0; at < happened; at++) {
            void *what = events[at].data.ptr;
            char ignored[256];
            if (what == &timer) {
                if (getppid() != parent) return 0;
            } else if (what == &input) {
                if (read(0, ignored, sizeof ignored) <= 0) return 0;
            } else if (what == &door) {
                accept_all(listener);
            } else {
                connection *each = what;
                if (each->socket < 0) continue;
                if (events[at].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
                    drop(each); /* a client that has asked and then hangs up wants no answer */
                    continue;
                }
                each->may_read = true;
                if (each->state == SENDING) send_on(each);
                read_on(each);
            }
        }
        for (int64_t now = now_ns(CLOCK_MONOTONIC); heap_count && heap[0]->due_ns <= now;) {
            connection *each = heap[0];
            wait_no_more(each);
            go_on(each);
            read_on(each);
        }
        while (dead_count) free(dead[--dead_count]);
    }
}
