/* Messages of librdkafka into Arrow buffers, without the interpreter.

   The client stays the one that confluent-kafka made, with its configuration, its threads and its callbacks; only its records are
   taken here, from the queue of one partition. Two things come without a promise that anybody could break:

   - librdkafka is the one that confluent-kafka has loaded. Nothing is linked: its functions are looked up by name.
   - The client is learned from an interceptor. librdkafka loads this file as a plugin, and tells it of each client that is made
     and destroyed. No layout of an object of confluent-kafka is known here.

   Some errors of a partition call back from its queue, and confluent-kafka's own callback aborts the process outside of its calls.
   So it is replaced: by an interceptor of the one property that confluent-kafka sets after its callback. A client whose callback is
   still another one when it is made is not read here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define NAME "beam_exactly_once"
#define MAX_PENDING 1000
#define LAST_PROPERTY "log.queue"
#define NOT_MINE (-2)
#define FATAL (-150)

/* -- librdkafka, as it promises to stay since 1.0 ------------------------------------------------------------------------------ */

typedef struct {
    int error;
    void *topic;
    int32_t partition;
    void *value;
    size_t value_size;
    void *key;
    size_t key_size;
    int64_t offset;
    void *private;
} message;

typedef int on_new(void *client, const void *config, void *opaque, char *text, size_t text_size);
typedef int on_destroy(void *client, void *opaque);
typedef int on_conf_set(void *config, const char *name, const char *value, char *text, size_t text_size, void *opaque);
typedef void on_error(void *client, int code, const char *text, void *opaque);

static struct {
    int (*version)(void);
    int (*conf_interceptor_add_on_new)(void *config, const char *name, on_new *call, void *opaque);
    int (*conf_interceptor_add_on_conf_set)(void *config, const char *name, on_conf_set *call, void *opaque);
    int (*interceptor_add_on_destroy)(void *client, const char *name, on_destroy *call, void *opaque);
    void (*conf_set_error_cb)(void *config, on_error *call);
    int (*conf_get)(const void *config, const char *name, char *value, size_t *size);
    int (*fatal_error)(void *client, char *text, size_t size);
    void *(*queue_get_partition)(void *client, const char *topic, int32_t partition);
    void (*queue_forward)(void *queue, void *to);
    void (*queue_destroy)(void *queue);
    ssize_t (*consume_batch_queue)(void *queue, int wait_ms, message **taken, size_t size);
    void (*message_destroy)(message *one);
    const char *(*message_errstr)(const message *one);
    int64_t (*message_timestamp)(const message *one, int *type);
    int (*message_headers)(const message *one, void **headers);
    int (*header_get_all)(const void *headers, size_t index, const char **name, const void **value, size_t *size);
} kafka;

static PyObject *load(PyObject *module, PyObject *args)
{
    static const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"rd_kafka_version", &kafka.version},
        {"rd_kafka_conf_interceptor_add_on_new", &kafka.conf_interceptor_add_on_new},
        {"rd_kafka_conf_interceptor_add_on_conf_set", &kafka.conf_interceptor_add_on_conf_set},
        {"rd_kafka_interceptor_add_on_destroy", &kafka.interceptor_add_on_destroy},
        {"rd_kafka_conf_set_error_cb", &kafka.conf_set_error_cb},
        {"rd_kafka_conf_get", &kafka.conf_get},
        {"rd_kafka_fatal_error", &kafka.fatal_error},
        {"rd_kafka_queue_get_partition", &kafka.queue_get_partition},
        {"rd_kafka_queue_forward", &kafka.queue_forward},
        {"rd_kafka_queue_destroy", &kafka.queue_destroy},
        {"rd_kafka_consume_batch_queue", &kafka.consume_batch_queue},
        {"rd_kafka_message_destroy", &kafka.message_destroy},
        {"rd_kafka_message_errstr", &kafka.message_errstr},
        {"rd_kafka_message_timestamp", &kafka.message_timestamp},
        {"rd_kafka_message_headers", &kafka.message_headers},
        {"rd_kafka_header_get_all", &kafka.header_get_all},
    };
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    /* A search in what is loaded already begins at the file, and goes on in the libraries that it needs. */
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL)
        return PyErr_Format(PyExc_ImportError, "%s is not loaded", path);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(library, functions[i].name);
        if (found == NULL) {
            memset(&kafka, 0, sizeof kafka);
            return PyErr_Format(PyExc_ImportError, "%s leads to no function %s", path, functions[i].name);
        }
        memcpy(functions[i].place, &found, sizeof found);
    }
    return PyLong_FromLong(kafka.version());
}

/* -- clients ------------------------------------------------------------------------------------------------------------------- */

typedef struct client {
    _Atomic(void *) handle; /* NULL: librdkafka has destroyed it */
    atomic_int owners;
    PyObject *callback; /* who holds the interpreter may use it */
    struct client *next;
} client;

static client *known; /* those that live */
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local client *created;

static void lock_known(void) { pthread_mutex_lock(&known_lock); }
static void unlock_known(void) { pthread_mutex_unlock(&known_lock); }

static void let_go(client *one)
{
    if (one != NULL && atomic_fetch_sub(&one->owners, 1) == 1)
        free(one);
}

static void call_back(void *handle, int code, const char *text, void *opaque)
{
    char fatal[512];
    (void)opaque;
    lock_known();
    client *one = known;
    while (one != NULL && atomic_load(&one->handle) != handle)
        one = one->next;
    if (one != NULL)
        atomic_fetch_add(&one->owners, 1);
    unlock_known();
    if (one == NULL)
        return;
    int is_fatal = code == FATAL;
    if (is_fatal) {
        code = kafka.fatal_error(handle, fatal, sizeof fatal);
        text = fatal;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    if (one->callback != NULL) {
        PyObject *callback = one->callback;
        Py_INCREF(callback);
        PyObject *answer = PyObject_CallFunction(callback, "iyi", code, text == NULL ? "" : text, is_fatal);
        if (answer == NULL)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(answer);
        Py_DECREF(callback);
    }
    PyGILState_Release(state);
    let_go(one);
}

static int note_destroyed(void *handle, void *opaque)
{
    client *one = opaque;
    (void)handle;
    lock_known();
    for (client **at = &known; *at != NULL; at = &(*at)->next) {
        if (*at == one) {
            *at = one->next;
            break;
        }
    }
    atomic_store(&one->handle, NULL);
    unlock_known();
    let_go(one);
    return 0;
}

static int note_new(void *handle, const void *config, void *opaque, char *text, size_t text_size)
{
    char callback[32] = "", ours[32];
    size_t size = sizeof callback;
    (void)opaque, (void)text, (void)text_size;
    let_go(created);
    created = NULL;
    snprintf(ours, sizeof ours, "%p", (void *)(uintptr_t)call_back);
    if (kafka.conf_get(config, "error_cb", callback, &size) || strcmp(callback, ours))
        return 0; /* another callback: the client is read as before */
    client *one = calloc(1, sizeof *one);
    if (one == NULL)
        return 0;
    atomic_init(&one->handle, handle);
    atomic_init(&one->owners, 2);
    if (kafka.interceptor_add_on_destroy(handle, NAME, note_destroyed, one)) {
        free(one);
        return 0;
    }
    lock_known();
    one->next = known;
    known = one;
    unlock_known();
    created = one;
    return 0;
}

static int note_property(void *config, const char *name, const char *value, char *text, size_t text_size, void *opaque)
{
    (void)value, (void)text, (void)text_size, (void)opaque;
    if (strcmp(name, LAST_PROPERTY) == 0)
        kafka.conf_set_error_cb(config, call_back);
    return NOT_MINE;
}

/* librdkafka calls it by this name when it loads the plugin. */
PUBLIC int conf_init(void *config, void **opaque, char *text, size_t text_size)
{
    (void)opaque, (void)text, (void)text_size;
    if (kafka.version != NULL) {
        kafka.conf_interceptor_add_on_conf_set(config, NAME, note_property, NULL);
        kafka.conf_interceptor_add_on_new(config, NAME, note_new, NULL);
    }
    return 0;
}

static void forget_client(PyObject *capsule)
{
    client *one = PyCapsule_GetPointer(capsule, NAME);
    Py_CLEAR(one->callback);
    let_go(one);
}

static PyObject *newest_client(PyObject *module, PyObject *callback)
{
    (void)module;
    if (created == NULL)
        Py_RETURN_NONE;
    PyObject *capsule = PyCapsule_New(created, NAME, forget_client);
    if (capsule != NULL) {
        Py_INCREF(callback);
        created->callback = callback;
        created = NULL;
    }
    return capsule;
}

/* -- columns ------------------------------------------------------------------------------------------------------------------- */

enum {
    OFFSETS, TIMESTAMPS, TYPES,
    KEY_IS, KEY_ENDS, KEYS,
    VALUE_IS, VALUE_ENDS, VALUES,
    HEADER_ENDS, NAME_ENDS, NAMES, TEXT_IS, TEXT_ENDS, TEXTS,
    BUFFERS
};

typedef struct {
    char *bytes;
    size_t size, capacity;
} buffer;

typedef struct {
    buffer of[BUFFERS];
    size_t rows, headers, null_keys, null_values, null_texts, bytes;
} columns;

static int reserve(buffer *one, size_t more)
{
    if (one->capacity - one->size >= more)
        return 1;
    size_t capacity = one->capacity + one->capacity / 2 + more;
    char *bytes = realloc(one->bytes, capacity);
    if (bytes == NULL)
        return 0;
    one->bytes = bytes;
    one->capacity = capacity;
    return 1;
}

/* What is put was reserved before. */
static void put(buffer *one, const void *bytes, size_t size)
{
    if (size)
        memcpy(one->bytes + one->size, bytes, size);
    one->size += size;
}

static void put_bit(buffer *one, size_t index, int bit)
{
    if (index % 8 == 0)
        one->bytes[one->size++] = 0;
    one->bytes[index / 8] |= (char)(bit << index % 8);
}

static void put_text(columns *all, int first, size_t index, const void *bytes, size_t size)
{
    put_bit(&all->of[first], index, bytes != NULL);
    put(&all->of[first + 2], bytes, bytes == NULL ? 0 : size);
    int32_t end = (int32_t)all->of[first + 2].size;
    put(&all->of[first + 1], &end, sizeof end);
}

static void free_columns(columns *all)
{
    for (int i = 0; all != NULL && i < BUFFERS; i++)
        free(all->of[i].bytes);
    free(all);
}

/* Empty ones, with room for as much as those before. */
static columns *new_columns(const columns *before)
{
    static const int ends[] = {KEY_ENDS, VALUE_ENDS, HEADER_ENDS, NAME_ENDS, TEXT_ENDS};
    const int32_t zero = 0;
    columns *all = calloc(1, sizeof *all);
    for (int i = 0; all != NULL && i < BUFFERS; i++) {
        if (!reserve(&all->of[i], 64 + (before == NULL ? 0 : before->of[i].size))) {
            free_columns(all);
            return NULL;
        }
    }
    for (size_t i = 0; all != NULL && i < sizeof ends / sizeof *ends; i++)
        put(&all->of[ends[i]], &zero, sizeof zero);
    return all;
}

enum { NO_MEMORY = -1, TOO_LARGE, ADDED };

static int add_row(columns *all, const message *one, int wants_headers)
{
    void *headers = NULL;
    const char *name;
    const void *text;
    size_t count = 0, names = 0, texts = 0, size;
    if (wants_headers && kafka.message_headers(one, &headers) != 0)
        headers = NULL;
    while (headers != NULL && kafka.header_get_all(headers, count, &name, &text, &size) == 0) {
        names += strlen(name);
        texts += text == NULL ? 0 : size;
        count++;
    }
    size_t keys = one->key == NULL ? 0 : one->key_size, values = one->value == NULL ? 0 : one->value_size;
    size_t grows[BUFFERS] = {8, 8, 1, 1, 4, keys, 1, 4, values, 4, 4 * count, names, count / 8 + 1, 4 * count, texts};
    for (int i = 0; i < BUFFERS; i++) {
        if (grows[i] > (size_t)INT32_MAX - all->of[i].size) /* where a text ends is 32 bits */
            return TOO_LARGE;
        if (!reserve(&all->of[i], grows[i]))
            return NO_MEMORY;
    }
    int type = 0;
    int64_t timestamp = kafka.message_timestamp(one, &type);
    char short_type = (char)type;
    put(&all->of[OFFSETS], &one->offset, 8);
    put(&all->of[TIMESTAMPS], &timestamp, 8);
    put(&all->of[TYPES], &short_type, 1);
    put_text(all, KEY_IS, all->rows, one->key, keys);
    put_text(all, VALUE_IS, all->rows, one->value, values);
    for (size_t i = 0; i < count; i++) {
        kafka.header_get_all(headers, i, &name, &text, &size);
        put(&all->of[NAMES], name, strlen(name));
        int32_t end = (int32_t)all->of[NAMES].size;
        put(&all->of[NAME_ENDS], &end, sizeof end);
        put_text(all, TEXT_IS, all->headers, text, size);
        all->null_texts += text == NULL;
        all->headers++;
    }
    int32_t end = (int32_t)all->headers;
    put(&all->of[HEADER_ENDS], &end, sizeof end);
    all->null_keys += one->key == NULL;
    all->null_values += one->value == NULL;
    all->bytes += keys + values + names + texts;
    all->rows++;
    return ADDED;
}

/* -- partitions ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    client *client;
    void *queue;
    pid_t process;
    int wants_headers, is_busy;
    columns *columns;
    message *pending[MAX_PENDING];
    size_t next, ready; /* pending from next on, up to ready */
} partition;

enum { NOTHING, ENOUGH, EVENT, DOUBT, FAILED };

typedef struct {
    long long seen, stop, trusted;
    Py_ssize_t max_records, max_bytes;
    int wait_ms;
} wish;

static int fetch(partition *self, wish *wish)
{
    long long count = wish->wait_ms ? 1 : MAX_PENDING, left = wish->max_records - (Py_ssize_t)self->columns->rows;
    count = count < left ? count : left;
    count = count < wish->stop - wish->seen ? count : wish->stop - wish->seen;
    /* With a time to wait it would wait until all of them are there. */
    ssize_t got = kafka.consume_batch_queue(self->queue, wish->wait_ms, self->pending, (size_t)count);
    self->next = 0;
    self->ready = got > 0 ? (size_t)got : 0;
    wish->wait_ms = 0;
    return self->ready > 0;
}

/* Without the interpreter. Takes records in order, up to one that must be looked at. */
static int fill(partition *self, wish *wish)
{
    columns *all = self->columns;
    while (wish->seen < wish->stop && all->rows < (size_t)wish->max_records && all->bytes < (size_t)wish->max_bytes) {
        if (self->next == self->ready && !fetch(self, wish))
            return NOTHING;
        message *one = self->pending[self->next];
        if (one->error)
            return EVENT;
        if (one->offset < wish->seen || (one->offset > wish->seen && one->offset >= wish->trusted))
            return DOUBT;
        if (one->offset >= wish->stop) {
            wish->seen = wish->stop;
            return ENOUGH;
        }
        int added = add_row(all, one, self->wants_headers);
        if (added == TOO_LARGE && all->rows)
            return ENOUGH;
        if (added != ADDED)
            return FAILED;
        wish->seen = one->offset + 1;
        self->next++;
        kafka.message_destroy(one);
    }
    return ENOUGH;
}

static int may_use(partition *self)
{
    const char *fault = NULL;
    if (self->process != getpid())
        fault = "the reader was opened in another process; open one after the fork";
    else if (self->queue == NULL || self->columns == NULL || atomic_load(&self->client->handle) == NULL)
        fault = "the reader or its client is closed";
    else if (self->is_busy)
        fault = "the reader is in use by another thread";
    if (fault != NULL)
        PyErr_SetString(PyExc_RuntimeError, fault);
    return fault == NULL;
}

static PyObject *take(PyObject *object, PyObject *args)
{
    partition *self = (partition *)object;
    wish wish;
    if (!PyArg_ParseTuple(args, "LLLnni", &wish.seen, &wish.stop, &wish.trusted, &wish.max_records, &wish.max_bytes,
                          &wish.wait_ms))
        return NULL;
    if (wish.seen < 0 || wish.max_records < 0 || wish.max_bytes < 0 || wish.wait_ms < 0) {
        PyErr_SetString(PyExc_ValueError, "nothing that is taken can be negative");
        return NULL;
    }
    if (!may_use(self))
        return NULL;
    int cause;
    self->is_busy = 1;
    Py_BEGIN_ALLOW_THREADS
    cause = fill(self, &wish);
    Py_END_ALLOW_THREADS
    self->is_busy = 0;
    if (cause == FAILED)
        return PyErr_NoMemory();
    message *one = self->next < self->ready ? self->pending[self->next] : NULL;
    if (cause == DOUBT)
        return Py_BuildValue("LiLiy", wish.seen, cause, (long long)one->offset, 0, "");
    if (cause != EVENT)
        return Py_BuildValue("LiLiy", wish.seen, cause, 0LL, 0, "");
    const char *text = kafka.message_errstr(one);
    PyObject *event = Py_BuildValue("LiLiy", wish.seen, cause, (long long)one->offset, one->error, text == NULL ? "" : text);
    self->next++;
    kafka.message_destroy(one);
    return event;
}

static void free_capsule(PyObject *capsule)
{
    free_columns(PyCapsule_GetPointer(capsule, NAME));
}

static PyObject *collect(PyObject *object, PyObject *unused)
{
    partition *self = (partition *)object;
    (void)unused;
    if (!may_use(self))
        return NULL;
    columns *taken = self->columns, *empty = new_columns(taken);
    if (empty == NULL)
        return PyErr_NoMemory();
    PyObject *owner = PyCapsule_New(taken, NAME, free_capsule), *places = PyList_New(0);
    if (owner == NULL || places == NULL) {
        free_columns(empty);
        if (owner != NULL)
            self->columns = NULL; /* dies with its owner */
        goto failed;
    }
    self->columns = empty;
    for (int i = 0; i < BUFFERS; i++) {
        PyObject *place = Py_BuildValue("Kn", (unsigned long long)(uintptr_t)taken->of[i].bytes, (Py_ssize_t)taken->of[i].size);
        int fails = place == NULL || PyList_Append(places, place);
        Py_XDECREF(place);
        if (fails)
            goto failed;
    }
    return Py_BuildValue("NnnnnnnN", owner, (Py_ssize_t)taken->rows, (Py_ssize_t)taken->headers, (Py_ssize_t)taken->null_keys,
                         (Py_ssize_t)taken->null_values, (Py_ssize_t)taken->null_texts, (Py_ssize_t)taken->bytes, places);
failed:
    Py_XDECREF(owner);
    Py_XDECREF(places);
    return NULL;
}

static PyObject *state(PyObject *object, PyObject *unused)
{
    partition *self = (partition *)object;
    (void)unused;
    if (!may_use(self))
        return NULL;
    return Py_BuildValue("nn", (Py_ssize_t)self->columns->rows, (Py_ssize_t)self->columns->bytes);
}

/* A child has the memory of a client without its threads, and a client that is gone has no queues: both are left as they are. */
static PyObject *end(PyObject *object, PyObject *unused)
{
    partition *self = (partition *)object;
    (void)unused;
    if (self->is_busy)
        return PyErr_Format(PyExc_RuntimeError, "the reader is in use by another thread");
    if (self->queue != NULL && self->process == getpid() && atomic_load(&self->client->handle) != NULL) {
        for (; self->next < self->ready; self->next++)
            kafka.message_destroy(self->pending[self->next]);
        kafka.queue_destroy(self->queue);
    }
    self->queue = NULL;
    Py_RETURN_NONE;
}

static PyObject *begin(PyTypeObject *type, PyObject *args, PyObject *named)
{
    PyObject *capsule;
    const char *topic;
    int number, wants_headers;
    if (named != NULL && PyDict_Size(named) > 0)
        return PyErr_Format(PyExc_TypeError, "a partition is opened without keywords");
    if (!PyArg_ParseTuple(args, "Osip", &capsule, &topic, &number, &wants_headers))
        return NULL;
    client *of = PyCapsule_GetPointer(capsule, NAME);
    if (of == NULL)
        return NULL;
    void *handle = atomic_load(&of->handle);
    partition *self = handle == NULL ? NULL : (partition *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_RuntimeError, "the client is closed");
    atomic_fetch_add(&of->owners, 1);
    self->client = of;
    self->process = getpid();
    self->wants_headers = wants_headers;
    self->columns = new_columns(NULL);
    self->queue = self->columns == NULL ? NULL : kafka.queue_get_partition(handle, topic, number);
    if (self->queue == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    kafka.queue_forward(self->queue, NULL); /* records stay in it, instead of going to the queue of the consumer */
    return (PyObject *)self;
}

static void dealloc(PyObject *object)
{
    partition *self = (partition *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(end(object, NULL));
    free_columns(self->columns);
    let_go(self->client);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef partition_methods[] = {
    {"take", take, METH_VARARGS, NULL},
    {"collect", collect, METH_NOARGS, NULL},
    {"state", state, METH_NOARGS, NULL},
    {"close", end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot partition_slots[] = {
    {Py_tp_new, begin}, {Py_tp_dealloc, dealloc}, {Py_tp_methods, partition_methods}, {0, NULL}};
static PyType_Spec partition_spec = {
    "beam_exactly_once.kafka._native_reader.Partition", sizeof(partition), 0, Py_TPFLAGS_DEFAULT, partition_slots};

static PyMethodDef functions[] = {
    {"load", load, METH_VARARGS, NULL},
    {"newest_client", newest_client, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native_reader", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native_reader(void)
{
    PyObject *module = PyModule_Create(&definition), *type = PyType_FromSpec(&partition_spec);
    pthread_atfork(lock_known, unlock_known, unlock_known);
    if (module == NULL || type == NULL || PyModule_AddObject(module, "Partition", type)) {
        Py_XDECREF(module);
        Py_XDECREF(type);
        return NULL;
    }
    return module;
}
