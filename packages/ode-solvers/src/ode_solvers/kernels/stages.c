/* The stages of one explicit step in a row: sum, call of f, sum, call of f, ... Python's part in it
   is f alone.

   The few functions of Python's that this takes are declared here, so that a build needs none of
   its headers; all of them are in its stable interface, or exported since 3.9. The caller holds the
   interpreter's lock (ctypes.PyDLL), and an exception is what NULL means. */

#include <stddef.h>
#include <stdint.h>

typedef struct Object Object;

extern Object *PyObject_Vectorcall(Object *, Object *const *, size_t, Object *);
extern Object *PyObject_VectorcallMethod(Object *, Object *const *, size_t, Object *);
extern Object *PyObject_GetAttr(Object *, Object *);
extern Object *PyObject_Type(Object *);
extern int PyObject_IsTrue(Object *);
extern int PyObject_RichCompareBool(Object *, Object *, int);
extern Object *PyUnicode_InternFromString(const char *);
extern Object *PyLong_FromLong(long);
extern long PyLong_AsLong(Object *);
extern void *PyLong_AsVoidPtr(Object *);
extern double PyFloat_AsDouble(Object *);
extern Object *PyErr_Occurred(void);
extern void PyErr_Clear(void);
extern int PyList_Append(Object *, Object *);
extern Object *PyList_GetItem(Object *, intptr_t);
extern intptr_t PyList_Size(Object *);
extern Object *PyTuple_GetItem(Object *, intptr_t);
extern intptr_t PyTuple_Size(Object *);
extern void Py_IncRef(Object *);
extern void Py_DecRef(Object *);

#define MOST 32
#define MOST_ARGS 16
#define EQUAL 2
enum { UNFIT, WROTE_STATE, WROTE_SLOPE };

/* The sums that lead to the stages after the first, and how many of these f is called at. */
typedef struct {
    int64_t count;
    int64_t evaluated;
    const void *rows[MOST];
} Program;

typedef void Combine(void *const *, const void *, const void *, void *, double, int64_t);
typedef void CombineRows(void *const *, const void *, const void *, void *, const double *, int64_t,
                         int64_t);

/* What does not change from stage to stage. `watched`: versions of tensors tell who wrote into
   them; `recording`: a slope may have a gradient. */
typedef struct {
    void **pointers;
    Object *f, *args, *mend;
    Object *type, *dtype, *shape, *strides;
    Object *last;
    long last_version;
    int64_t watched, recording;
    int contiguous;
} Run;

static Object *name_dtype, *name_shape, *name_stride, *name_is_cpu, *name_version, *name_data_ptr,
    *name_requires_grad, *name_is_contiguous;

static int named(void) {
    if (name_is_contiguous) return 1;
    return (name_dtype = PyUnicode_InternFromString("dtype")) &&
           (name_shape = PyUnicode_InternFromString("shape")) &&
           (name_stride = PyUnicode_InternFromString("stride")) &&
           (name_is_cpu = PyUnicode_InternFromString("is_cpu")) &&
           (name_version = PyUnicode_InternFromString("_version")) &&
           (name_data_ptr = PyUnicode_InternFromString("data_ptr")) &&
           (name_requires_grad = PyUnicode_InternFromString("requires_grad")) &&
           (name_is_contiguous = PyUnicode_InternFromString("is_contiguous"));
}

static Object *method(Object *x, Object *name) {
    return PyObject_VectorcallMethod(name, &x, 1, NULL);
}

/* How often a tensor was written into, -1 for one that does not count. */
static long version(const Run *run, Object *x) {
    if (!run->watched) return -1;
    Object *found = PyObject_GetAttr(x, name_version);
    if (!found) {
        PyErr_Clear();
        return -1;
    }
    long count = PyLong_AsLong(found);
    Py_DecRef(found);
    return count;
}

/* Whether an object that was found is true; it is let go. */
static int truth(Object *found) {
    if (!found) return -1;
    int yes = PyObject_IsTrue(found);
    Py_DecRef(found);
    return yes;
}

static int flag(Object *x, Object *name) { return truth(PyObject_GetAttr(x, name)); }

/* Whether an object that was found is, or equals, what it should be; it is let go. */
static int alike(Object *found, Object *wanted, int same) {
    if (!found) return -1;
    int yes = found == wanted;
    if (!yes && !same) yes = PyObject_RichCompareBool(found, wanted, EQUAL);
    Py_DecRef(found);
    return yes;
}

/* Whether C can read a slope as it is. */
static int fits(const Run *run, Object *k) {
    int yes = alike(PyObject_Type(k), run->type, 1);
    if (yes == 1) yes = alike(PyObject_GetAttr(k, name_dtype), run->dtype, 1);
    if (yes == 1) yes = flag(k, name_is_cpu);
    if (yes == 1) yes = alike(PyObject_GetAttr(k, name_shape), run->shape, 0);
    if (yes == 1 && run->contiguous) return truth(method(k, name_is_contiguous));
    if (yes == 1) yes = alike(method(k, name_stride), run->strides, 0);
    return yes;
}

static int address(Object *number, void **pointer) {
    if (!number) return -1;
    *pointer = PyLong_AsVoidPtr(number);
    Py_DecRef(number);
    return *pointer == NULL && PyErr_Occurred() ? -1 : 0;
}

/* Let Python look at what C does not take: it raises, or returns a slope and where that lies. */
static Object *mended(const Run *run, Object *k, long code) {
    Object *number = PyLong_FromLong(code);
    if (!number) return NULL;
    Object *given[2] = {k, number};
    Object *pair = PyObject_Vectorcall(run->mend, given, 2, NULL);
    Py_DecRef(number);
    return pair;
}

static int refused(const Run *run, Object *k, long code) {
    Object *pair = mended(run, k, code);
    if (pair) Py_DecRef(pair);
    return -1;
}

/* Call f at a time and a state of a version, and keep the slope. Returns 1 where it has a gradient,
   -1 for an exception. */
static int evaluate(Run *run, Object *time, Object *state, long before, Object *ks) {
    Object *given[2 + MOST_ARGS] = {time, state};
    intptr_t more = PyTuple_Size(run->args), place = PyList_Size(ks);
    for (intptr_t i = 0; i < more; i++) given[2 + i] = PyTuple_GetItem(run->args, i);
    Object *k = PyObject_Vectorcall(run->f, given, 2 + more, NULL);
    if (!k) return -1;
    int done = fits(run, k);
    if (done == 1) {
        done = address(method(k, name_data_ptr), &run->pointers[place]);
    } else if (done == 0) {
        Object *pair = mended(run, k, UNFIT);
        Py_DecRef(k);
        if (!pair) return -1;
        k = PyTuple_GetItem(pair, 0);
        Object *number = PyTuple_GetItem(pair, 1);
        Py_IncRef(k);
        Py_IncRef(number);
        done = address(number, &run->pointers[place]);
        Py_DecRef(pair);
    }
    if (done == 0 && version(run, state) != before) done = refused(run, k, WROTE_STATE);
    if (done == 0 && run->last && version(run, run->last) != run->last_version)
        done = refused(run, k, WROTE_SLOPE);
    if (done == 0) done = PyList_Append(ks, k);
    if (done == 0) {
        /* The list keeps it. */
        run->last = k;
        run->last_version = version(run, k);
        if (run->recording) done = flag(k, name_requires_grad);
    }
    Py_DecRef(k);
    return done;
}

/* Fill a list with the slopes of one step, from the one at the start on where it is empty.

   The times are those of the start and of each stage after it, as objects or, where there are
   `views` of memory at `clock`, as numbers that are written there. Sums have one step size `h` or,
   where there are `steps`, one for each of `rows` rows of `width` entries. Returns the state that
   the last sum gave; `None` where there was none, or where a slope has a gradient and the rest is
   for someone else. */
Object *stages(const Program *program, void *combine, void **pointers, double h,
               const double *steps, int64_t rows, int64_t width, Object *empty_like, Object *y,
               Object *ks, Object *times, Object *views, void *clock, int64_t wide, Object *f,
               Object *args, Object *mend, int64_t watched, int64_t recording, Object *none) {
    if (!named()) return NULL;
    Run run = {pointers, f, args, mend, PyObject_Type(y), NULL, NULL, NULL, NULL, -1, watched,
               recording, 0};
    Object *state = none, *stage = NULL, *number = NULL;
    void *from, *to;
    int done = -1;
    Py_IncRef(state);
    run.dtype = PyObject_GetAttr(y, name_dtype);
    run.shape = PyObject_GetAttr(y, name_shape);
    run.strides = method(y, name_stride);
    run.contiguous = truth(method(y, name_is_contiguous));
    if (!run.type || !run.dtype || !run.shape || !run.strides || run.contiguous < 0) goto end;
    if (address(method(y, name_data_ptr), &from)) goto end;
    if (views != none) {
        for (intptr_t i = 0; i < PyList_Size(times); i++) {
            double t = PyFloat_AsDouble(PyList_GetItem(times, i));
            if (wide)
                ((double *)clock)[i] = t;
            else
                ((float *)clock)[i] = (float)t;
        }
    }
#define TIME(i) (views == none ? PyList_GetItem(times, i) : PyTuple_GetItem(views, i))
    done = PyList_Size(ks) == 0 ? evaluate(&run, TIME(0), y, version(&run, y), ks) : 0;
    for (int64_t i = 0; done == 0 && i < program->count; i++) {
        stage = PyObject_Vectorcall(empty_like, &y, 1, NULL);
        number = stage ? method(stage, name_data_ptr) : NULL;
        done = address(number, &to);
        if (done == 0) {
            if (steps)
                ((CombineRows *)combine)(pointers, program->rows[i], from, to, steps, rows, width);
            else
                ((Combine *)combine)(pointers, program->rows[i], from, to, h, rows * width);
            if (i < program->evaluated)
                done = evaluate(&run, TIME(i + 1), stage, version(&run, stage), ks);
        }
        if (stage && i + 1 == program->count && done == 0) {
            Py_DecRef(state);
            state = stage;
        } else if (stage) {
            Py_DecRef(stage);
        }
    }
end:
    if (run.type) Py_DecRef(run.type);
    if (run.dtype) Py_DecRef(run.dtype);
    if (run.shape) Py_DecRef(run.shape);
    if (run.strides) Py_DecRef(run.strides);
    if (done < 0) {
        Py_DecRef(state);
        return NULL;
    }
    return state;
}
