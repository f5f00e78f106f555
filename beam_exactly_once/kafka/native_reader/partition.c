/* The records of one partition, taken from its queue without the interpreter. */

#include "clients.h"
#include "columns.h"

#include <unistd.h>

#define MAX_PENDING 1000

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
        /* The queue lives as long as the client, and what was fetched ahead stays in it until somebody asks. If the partition is
           no longer assigned, to ask frees all of it, and gives nothing. */
        ssize_t got = kafka.consume_batch_queue(self->queue, 0, self->pending, MAX_PENDING);
        for (ssize_t one = 0; one < got; one++)
            kafka.message_destroy(self->pending[one]);
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
PyType_Spec partition_spec = {
    "beam_exactly_once.kafka._native_reader.Partition", sizeof(partition), 0, Py_TPFLAGS_DEFAULT, partition_slots};
