#include "columns.h"

#include <stdlib.h>
#include <string.h>

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

void free_columns(columns *all)
{
    for (int i = 0; all != NULL && i < BUFFERS; i++)
        free(all->of[i].bytes);
    free(all);
}

columns *new_columns(const columns *before)
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

int add_row(columns *all, const message *one, int wants_headers)
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
