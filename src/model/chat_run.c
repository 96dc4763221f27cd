/* chat_run.c - evaluating expressions and running statements, as the code that jinja2 generates
 * does.
 *
 * Scopes: a loop body, a captured block and a macro have their own variables; a loop's are new in
 * every round, and what is set inside is gone behind it; if opens no scope. A macro sees its
 * arguments and the variables of the template itself, not those of the place it is called from.
 *
 * Recursion is as deep as the tree, whose depth the parser has bounded, times the macros that call
 * each other (LIMIT_CHAT_CALLS).
 */
#include "model/chat_internal.h"

#include <string.h>

/* Jinja's integers have no end; ours stop far above anything that counts messages. */
#define INT_END ((int64_t)1 << 48)

/* ---- Names ----------------------------------------------------------------------------------- */

static const variable *variable_within(const chat *c, const node *n, size_t low, size_t high)
{
    for (size_t i = high; i > low; i--) {
        const variable *known = &c->variable[i - 1];
        if (known->length == n->length && memcmp(known->name, n->text, n->length) == 0) {
            return known;
        }
    }
    return NULL;
}

/* The innermost of this name; within a macro its own and those of the template. */
static const variable *variable_find(const chat *c, const node *n)
{
    const variable *found = variable_within(c, n, c->base, c->n_variable);
    return found != NULL || c->base == 0 ? found : variable_within(c, n, 0, c->n_global);
}

/* Sets a variable of the innermost scope. */
static greta_status variable_set(chat *c, const node *n, value v)
{
    GRETA_TRY(chat_work(c, 1 + (c->n_variable - c->scope) / 8));
    for (size_t i = c->scope; i < c->n_variable; i++) {
        variable *known = &c->variable[i];
        if (known->length == n->length && memcmp(known->name, n->text, n->length) == 0) {
            known->value = v;
            return GRETA_OK;
        }
    }
    if (c->n_variable == LIMIT_CHAT_VARIABLES) {
        return chat_fail(c, n->line, "has more than %u variables", LIMIT_CHAT_VARIABLES);
    }
    c->variable[c->n_variable++] = (variable){n->text, n->length, v};
    c->n_global += !c->is_in_scope;
    return GRETA_OK;
}

/* A name, ns.name, or several names for the items of a value. */
static greta_status assign(chat *c, const node *target, value v)
{
    if (target->kind == NODE_NAME) {
        return variable_set(c, target, v);
    }
    if (target->kind == NODE_ATTRIBUTE) {
        value of;
        GRETA_TRY(chat_evaluate(c, target->a, &of));
        return of.kind == VALUE_NAMESPACE
                   ? value_dict_set(c, of.dict, value_string(target->text, target->length), v)
                   : chat_fail(c, target->line, "sets an attribute of %s", value_kind_name(of));
    }
    value_list *items = NULL;
    size_t i = 0;
    GRETA_TRY(value_items(c, target, v, &items));
    for (const node *name = target->a; name != NULL; name = name->next, i++) {
        if (i < items->n) {
            GRETA_TRY(variable_set(c, name, items->item[i]));
        }
    }
    return i == items->n ? GRETA_OK
                         : chat_fail(c, target->line, "gives %zu values to %zu names", items->n, i);
}

typedef struct saved_scope {
    size_t n_variable, scope;
    bool is_in_scope;
} saved_scope;

static saved_scope scope_open(chat *c)
{
    saved_scope saved = {c->n_variable, c->scope, c->is_in_scope};
    c->scope = c->n_variable;
    c->is_in_scope = true;
    return saved;
}

static void scope_close(chat *c, saved_scope saved)
{
    c->n_variable = saved.n_variable;
    c->scope = saved.scope;
    c->is_in_scope = saved.is_in_scope;
}

/* ---- Arithmetic ------------------------------------------------------------------------------ */

static greta_status join(chat *c, value a, value b, value *v)
{
    char *joined = chat_alloc(c, a.length + b.length);
    if (joined == NULL) {
        return GRETA_BAD_INPUT;
    }
    memcpy(joined, a.text, a.length);
    memcpy(joined + a.length, b.text, b.length);
    *v = value_string(joined, a.length + b.length);
    return chat_work(c, v->length / 64);
}

/* list + list, tuple + tuple */
static greta_status lists_join(chat *c, value a, value b, value *v)
{
    GRETA_TRY(value_list_new(c, a.kind, v));
    for (size_t i = 0; i < a.list->n + b.list->n; i++) {
        bool is_first = i < a.list->n;
        value item = is_first ? a.list->item[i] : b.list->item[i - a.list->n];
        GRETA_TRY(value_append(c, v->list, item));
    }
    return GRETA_OK;
}

/* string * n */
static greta_status repeat(chat *c, value string, int64_t n, value *v)
{
    *v = value_string("", 0);
    size_t times = n < 0 ? 0 : (size_t)n;
    if (string.length == 0 || times == 0) {
        return GRETA_OK;
    }
    if (times > LIMIT_CHAT_BYTES / string.length) {
        times = LIMIT_CHAT_BYTES / string.length + 1; /* refused below */
    }
    char *made = chat_alloc(c, string.length * times);
    if (made == NULL) {
        return GRETA_BAD_INPUT;
    }
    for (size_t i = 0; i < times; i++) {
        memcpy(made + i * string.length, string.text, string.length);
    }
    *v = value_string(made, string.length * times);
    return chat_work(c, v->length / 64);
}

static greta_status number_operate(chat *c, const node *n, int64_t a, int64_t b, value *v)
{
    int64_t result = 0;
    if ((n->kind == NODE_MODULO || n->kind == NODE_FLOOR_DIVIDE) && b == 0) {
        return chat_fail(c, n->line, "divides by zero");
    }
    switch (n->kind) {
    case NODE_ADD:
        result = a + b;
        break;
    case NODE_SUBTRACT:
        result = a - b;
        break;
    case NODE_MULTIPLY:
        if (a != 0 &&
            (b > INT_END / 2 || b < -INT_END / 2 || a > INT_END / 2 || a < -INT_END / 2 ||
             (b != 0 && (a > INT_END / (b < 0 ? -b : b) || a < -INT_END / (b < 0 ? -b : b))))) {
            result = INT_END;
            break;
        }
        result = a * b;
        break;
    case NODE_FLOOR_DIVIDE:
        result = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case NODE_MODULO:
        result = a % b;
        result += result != 0 && (result < 0) != (b < 0) ? b : 0;
        break;
    default:
        return chat_fail(c, n->line, "uses %s, which is not supported",
                         n->kind == NODE_POWER ? "**" : "/");
    }
    *v = value_int(result);
    return result > -INT_END && result < INT_END ? GRETA_OK
                                                 : chat_fail(c, n->line, "has a number that large");
}

static greta_status operate(chat *c, const node *n, value *v)
{
    value a, b;
    GRETA_TRY(chat_evaluate(c, n->a, &a));
    GRETA_TRY(chat_evaluate(c, n->b, &b));
    if (n->kind == NODE_CONCAT) {
        GRETA_TRY(value_text(c, n, a, &a));
        GRETA_TRY(value_text(c, n, b, &b));
        return join(c, a, b, v);
    }
    if (value_is_number(a) && value_is_number(b)) {
        return number_operate(c, n, a.number, b.number, v);
    }
    if (n->kind == NODE_ADD && a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        return join(c, a, b, v);
    }
    if (n->kind == NODE_ADD && a.kind == b.kind &&
        (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE)) {
        return lists_join(c, a, b, v);
    }
    if (n->kind == NODE_MULTIPLY && a.kind == VALUE_STRING && value_is_number(b)) {
        return repeat(c, a, b.number, v);
    }
    if (n->kind == NODE_MULTIPLY && b.kind == VALUE_STRING && value_is_number(a)) {
        return repeat(c, b, a.number, v);
    }
    return chat_fail(c, n->line, "computes with %s and %s", value_kind_name(a), value_kind_name(b));
}

/* ---- Comparisons ----------------------------------------------------------------------------- */

static greta_status contains(chat *c, const node *n, value item, value all, bool *holds)
{
    *holds = false;
    if (all.kind == VALUE_STRING && item.kind == VALUE_STRING) {
        *holds = item.length == 0 || memmem(all.text, all.length, item.text, item.length) != NULL;
        return chat_work(c, (all.length + item.length) / 64);
    }
    if (all.kind == VALUE_DICT) {
        bool is_key = item.kind == VALUE_STRING;
        *holds = is_key && value_dict_get(all.dict, item.text, item.length) != NULL;
        return value_is_sequence(item) || item.kind == VALUE_DICT
                   ? chat_fail(c, n->line, "looks for %s in a mapping", value_kind_name(item))
                   : chat_work(c, 1 + all.dict->n / 8);
    }
    if (!value_is_sequence(all) && all.kind != VALUE_UNDEFINED) {
        return chat_fail(c, n->line, "looks for %s in %s", value_kind_name(item),
                         value_kind_name(all));
    }
    for (size_t i = 0; value_is_sequence(all) && i < all.list->n && !*holds; i++) {
        GRETA_TRY(value_equal(c, n, item, all.list->item[i], holds));
    }
    return GRETA_OK;
}

static greta_status compare_two(chat *c, const node *operand, value a, value b, bool *holds)
{
    const char *op = operand->text;
    int order = 0;
    if (strcmp(op, "in") == 0 || strcmp(op, "not in") == 0) {
        GRETA_TRY(contains(c, operand, a, b, holds));
        *holds = *holds == (op[0] == 'i');
        return GRETA_OK;
    }
    if (op[0] == '!' || strcmp(op, "==") == 0) {
        GRETA_TRY(value_equal(c, operand, a, b, holds));
        *holds = *holds == (op[0] == '=');
        return GRETA_OK;
    }
    GRETA_TRY(value_order(c, operand, a, b, &order));
    *holds = (order == 0 && op[1] == '=') || (op[0] == '<' ? order < 0 : order > 0);
    return GRETA_OK;
}

/* a < b < c: each with its neighbour, up to the first that does not hold. */
static greta_status compare(chat *c, const node *n, value *v)
{
    value left, right;
    bool holds = true;
    GRETA_TRY(chat_evaluate(c, n->a, &left));
    for (const node *operand = n->b; operand != NULL && holds; operand = operand->next) {
        GRETA_TRY(chat_evaluate(c, operand->a, &right));
        GRETA_TRY(compare_two(c, operand, left, right, &holds));
        left = right;
    }
    *v = value_bool(holds);
    return GRETA_OK;
}

/* ---- Parts of values ------------------------------------------------------------------------- */

/* v[i] of a string or list; false: there is none. */
static bool element(value of, int64_t i, value *v)
{
    bool is_string = of.kind == VALUE_STRING;
    int64_t n = (int64_t)(is_string ? value_characters(of) : of.list->n);
    i = i < 0 ? i + n : i;
    if (i < 0 || i >= n) {
        return false;
    }
    if (!is_string) {
        *v = of.list->item[i];
        return true;
    }
    size_t start = value_character_at(of, (size_t)i), stop = value_character_at(of, (size_t)i + 1);
    *v = value_string(of.text + start, stop - start);
    return true;
}

static bool has_index(value of)
{
    return of.kind == VALUE_STRING || of.kind == VALUE_LIST || of.kind == VALUE_TUPLE;
}

static greta_status item(chat *c, const node *n, value *v)
{
    value of, at;
    GRETA_TRY(chat_evaluate(c, n->a, &of));
    GRETA_TRY(chat_evaluate(c, n->b, &at));
    GRETA_TRY(chat_work(c, 1 + of.length / 16));
    if (of.kind == VALUE_UNDEFINED) {
        return chat_fail(c, n->line, "asks for an item of an undefined value");
    }
    if (of.kind == VALUE_DICT && at.kind == VALUE_STRING) {
        const value *found = value_dict_get(of.dict, at.text, at.length);
        if (found != NULL) {
            *v = *found;
            return GRETA_OK;
        }
    } else if (has_index(of) && value_is_number(at)) {
        *v = value_of(VALUE_UNDEFINED);
        (void)element(of, at.number, v);
        return GRETA_OK;
    }
    if (at.kind == VALUE_STRING) {
        return chat_attribute(c, n, of, at, v);
    }
    *v = value_of(VALUE_UNDEFINED);
    return value_is_sequence(of) && !has_index(of)
               ? chat_fail(c, n->line, "asks for an item of %s", value_kind_name(of))
               : GRETA_OK;
}

/* A bound of a slice; absent or none: `given` is false. */
static greta_status bound(chat *c, const node *n, bool *given, int64_t *number)
{
    value v;
    *given = false;
    if (n == NULL) {
        return GRETA_OK;
    }
    GRETA_TRY(chat_evaluate(c, n, &v));
    *given = v.kind != VALUE_NONE;
    *number = v.number;
    return !*given || value_is_number(v)
               ? GRETA_OK
               : chat_fail(c, n->line, "cuts a slice at %s", value_kind_name(v));
}

static int64_t bound_clamp(int64_t at, int64_t n, int64_t least, int64_t most)
{
    at = at < 0 ? at + n : at;
    return at < least ? least : at > most ? most : at;
}

/* v[low:high:step] as Python has it. */
static greta_status slice(chat *c, const node *n, value *v)
{
    value of, one;
    bool has_low, has_high, has_step;
    int64_t low = 0, high = 0, step = 1;
    GRETA_TRY(chat_evaluate(c, n->a, &of));
    GRETA_TRY(bound(c, n->b, &has_low, &low));
    GRETA_TRY(bound(c, n->c, &has_high, &high));
    GRETA_TRY(bound(c, n->d, &has_step, &step));
    step = has_step ? step : 1;
    if (!has_index(of) || step == 0 || step <= -INT_END || step >= INT_END) {
        return chat_fail(c, n->line, "cuts a slice of %s", value_kind_name(of));
    }
    bool is_string = of.kind == VALUE_STRING;
    int64_t size = (int64_t)(is_string ? value_characters(of) : of.list->n);
    int64_t least = step < 0 ? -1 : 0, most = step < 0 ? size - 1 : size;
    low = has_low ? bound_clamp(low, size, least, most) : step < 0 ? most : 0;
    high = has_high ? bound_clamp(high, size, least, most) : step < 0 ? -1 : size;
    GRETA_TRY(chat_work(c, 1 + of.length / 16));
    if (is_string && step == 1) {
        size_t start = value_character_at(of, (size_t)low);
        size_t stop = low < high ? value_character_at(of, (size_t)high) : start;
        *v = value_string(of.text + start, stop - start);
        return GRETA_OK;
    }
    if (is_string && of.length > 65536) {
        return chat_fail(c, n->line, "cuts a slice with a step of a string that long");
    }
    GRETA_TRY(value_list_new(c, is_string ? VALUE_LIST : of.kind, v));
    for (int64_t i = low; step < 0 ? i > high : i < high; i += step) {
        GRETA_ASSERT(element(of, i, &one));
        GRETA_TRY(value_append(c, v->list, one));
        GRETA_TRY(chat_work(c, of.length / 16));
    }
    value all = value_string("", 0);
    for (size_t i = 0; is_string && i < v->list->n; i++) {
        GRETA_TRY(join(c, all, v->list->item[i], &all));
    }
    *v = is_string ? all : *v;
    return GRETA_OK;
}

/* ---- Expressions ----------------------------------------------------------------------------- */

static greta_status arguments_read(chat *c, const node *first, arguments *a)
{
    a->n = 0;
    for (const node *n = first; n != NULL; n = n->next) {
        if (a->n == ARGUMENTS_MAX) {
            return chat_fail(c, n->line, "gives more than %d arguments", ARGUMENTS_MAX);
        }
        a->name[a->n] = n->text;
        a->name_length[a->n] = n->length;
        GRETA_TRY(chat_evaluate(c, n->a, &a->item[a->n]));
        a->n++;
    }
    return GRETA_OK;
}

static greta_status literal(chat *c, const node *n, value *v)
{
    if (n->kind != NODE_DICT) {
        GRETA_TRY(value_list_new(c, n->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE, v));
        for (const node *part = n->a; part != NULL; part = part->next) {
            value one;
            GRETA_TRY(chat_evaluate(c, part->a, &one));
            GRETA_TRY(value_append(c, v->list, one));
        }
        return GRETA_OK;
    }
    GRETA_TRY(value_dict_new(c, VALUE_DICT, v));
    for (const node *pair = n->a; pair != NULL; pair = pair->next) {
        value key, one;
        GRETA_TRY(chat_evaluate(c, pair->a, &key));
        GRETA_TRY(chat_evaluate(c, pair->b, &one));
        if (key.kind != VALUE_STRING) {
            return chat_fail(c, n->line, "has a mapping with %s as key, which is not supported",
                             value_kind_name(key));
        }
        GRETA_TRY(value_dict_set(c, v->dict, key, one));
    }
    return GRETA_OK;
}

static greta_status call(chat *c, const node *n, value *v)
{
    value callee;
    arguments a;
    GRETA_TRY(chat_evaluate(c, n->a, &callee));
    GRETA_TRY(arguments_read(c, n->b, &a));
    return callee.kind == VALUE_MACRO ? chat_call_macro(c, n, callee.macro, &a, v)
                                      : chat_call(c, n, callee, &a, v);
}

static greta_status filter_or_test(chat *c, const node *n, value *v)
{
    value of, name = value_string(n->text, n->length);
    arguments a;
    bool holds = false;
    GRETA_TRY(chat_evaluate(c, n->a, &of));
    GRETA_TRY(arguments_read(c, n->b, &a));
    if (n->kind == NODE_FILTER) {
        return chat_filter(c, n, of, name, &a, v);
    }
    GRETA_TRY(chat_test(c, n, of, name, &a, &holds));
    *v = value_bool(holds != n->is_not);
    return GRETA_OK;
}

/* not, and, or, if, signs */
static greta_status logic(chat *c, const node *n, value *v)
{
    GRETA_TRY(chat_evaluate(c, n->kind == NODE_IF_ELSE ? n->b : n->a, v));
    bool is_true = value_is_true(*v);
    switch (n->kind) {
    case NODE_NOT:
        *v = value_bool(!is_true);
        return GRETA_OK;
    case NODE_AND:
        return is_true ? chat_evaluate(c, n->b, v) : GRETA_OK;
    case NODE_OR:
        return is_true ? GRETA_OK : chat_evaluate(c, n->b, v);
    case NODE_IF_ELSE:
        if (is_true) {
            return chat_evaluate(c, n->a, v);
        }
        *v = value_of(VALUE_UNDEFINED);
        return n->c == NULL ? GRETA_OK : chat_evaluate(c, n->c, v);
    default:
        if (!value_is_number(*v)) {
            return chat_fail(c, n->line, "has a sign before %s", value_kind_name(*v));
        }
        *v = value_int(n->kind == NODE_NEGATE ? -v->number : v->number);
        return GRETA_OK;
    }
}

greta_status chat_evaluate(chat *c, const node *n, value *v)
{
    GRETA_TRY(chat_work(c, 1));
    switch (n->kind) {
    case NODE_CONSTANT:
        *v = *n->value;
        return GRETA_OK;
    case NODE_NAME: {
        const variable *known = variable_find(c, n);
        if (known != NULL) {
            *v = known->value;
            return GRETA_OK;
        }
        return chat_name(c, n, v);
    }
    case NODE_LIST:
    case NODE_TUPLE:
    case NODE_DICT:
        return literal(c, n, v);
    case NODE_ATTRIBUTE: {
        value of;
        GRETA_TRY(chat_evaluate(c, n->a, &of));
        return chat_attribute(c, n, of, value_string(n->text, n->length), v);
    }
    case NODE_ITEM:
        return item(c, n, v);
    case NODE_SLICE:
        return slice(c, n, v);
    case NODE_CALL:
        return call(c, n, v);
    case NODE_FILTER:
    case NODE_TEST:
        return filter_or_test(c, n, v);
    case NODE_COMPARE:
        return compare(c, n, v);
    case NODE_INPUT:
        *v = c->input;
        return GRETA_OK;
    case NODE_NOT:
    case NODE_NEGATE:
    case NODE_POSITIVE:
    case NODE_AND:
    case NODE_OR:
    case NODE_IF_ELSE:
        return logic(c, n, v);
    default:
        return operate(c, n, v);
    }
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* Runs a body and hands over what it printed. */
static greta_status capture(chat *c, const node *body, value *printed)
{
    text made = {0}, *outer = c->out;
    c->out = &made;
    greta_status status = chat_run(c, body);
    c->out = outer;
    if (status == GRETA_OK && made.failed) {
        status = error_memory(c->err, "the chat text", made.length);
    }
    if (status == GRETA_OK) {
        status = value_copy_string(c, made.data, made.length, printed);
    }
    text_free(&made);
    return status;
}

greta_status chat_call_macro(chat *c, const node *n, const node *macro, const arguments *a,
                             value *v)
{
    if (c->n_call == LIMIT_CHAT_CALLS) {
        return chat_fail(c, n->line, "has macros that call each other that deep");
    }
    size_t base = c->base, used = 0;
    saved_scope saved = scope_open(c);
    struct chat_loop *loop = c->loop;
    c->n_call++;
    c->base = c->n_variable;
    c->loop = NULL;
    greta_status status = GRETA_OK;
    size_t i = 0;
    for (const node *p = macro->a; p != NULL && status == GRETA_OK; p = p->next, i++) {
        value given = value_of(VALUE_UNDEFINED);
        bool has_place = i < a->n && a->name[i] == NULL, is_given = has_place;
        for (size_t k = 0; k < a->n; k++) {
            bool is_it = a->name[k] == NULL ? has_place && k == i
                                            : a->name_length[k] == p->length &&
                                                  memcmp(a->name[k], p->text, p->length) == 0;
            given = is_it ? a->item[k] : given;
            is_given = is_given || is_it;
            used += is_it;
        }
        if (!is_given && p->a != NULL) {
            status = chat_evaluate(c, p->a, &given);
        }
        if (status == GRETA_OK) {
            status = variable_set(c, p, given);
        }
    }
    if (status == GRETA_OK && used != a->n) {
        status = chat_fail(c, n->line, "gives a macro arguments that it does not take");
    }
    if (status == GRETA_OK) {
        status = capture(c, macro->b, v);
    }
    c->n_call--;
    c->base = base;
    c->loop = loop;
    scope_close(c, saved);
    return status;
}

static greta_status print(chat *c, const node *n)
{
    value v;
    GRETA_TRY(chat_evaluate(c, n->a, &v));
    GRETA_TRY(value_text(c, n, v, &v));
    text_append(c->out, v.text, v.length);
    return GRETA_OK;
}

static greta_status set_block(chat *c, const node *n)
{
    value printed, outer = c->input;
    saved_scope saved = scope_open(c);
    greta_status status = capture(c, n->c, &printed);
    scope_close(c, saved);
    GRETA_TRY(status);
    c->input = printed;
    status = chat_evaluate(c, n->b, &printed);
    c->input = outer;
    GRETA_TRY(status);
    return assign(c, n->a, printed);
}

/* The items of a loop with a condition: those for which it holds. */
static greta_status loop_filter(chat *c, const node *n, value_list **items)
{
    value kept;
    GRETA_TRY(value_list_new(c, VALUE_LIST, &kept));
    for (size_t i = 0; i < (*items)->n; i++) {
        value holds;
        saved_scope saved = scope_open(c);
        greta_status status = assign(c, n->a, (*items)->item[i]);
        if (status == GRETA_OK) {
            status = chat_evaluate(c, n->e, &holds);
        }
        scope_close(c, saved);
        GRETA_TRY(status);
        if (value_is_true(holds)) {
            GRETA_TRY(value_append(c, kept.list, (*items)->item[i]));
        }
    }
    *items = kept.list;
    return GRETA_OK;
}

static greta_status loop_round(chat *c, const node *n, chat_loop *loop)
{
    static const node name = {.text = "loop", .length = 4};
    value self = {.kind = VALUE_LOOP};
    self.loop = loop;
    GRETA_TRY(chat_work(c, 1));
    GRETA_TRY(assign(c, n->a, loop->list->item[loop->i]));
    GRETA_TRY(variable_set(c, &name, self));
    return chat_run(c, n->c);
}

static greta_status loop_run(chat *c, const node *n)
{
    value iterable;
    value_list *items = NULL;
    GRETA_TRY(chat_evaluate(c, n->b, &iterable));
    GRETA_TRY(value_items(c, n, iterable, &items));
    if (n->e != NULL) {
        GRETA_TRY(loop_filter(c, n, &items));
    }
    chat_loop *loop = chat_alloc(c, sizeof *loop), *outer = c->loop;
    if (loop == NULL) {
        return GRETA_BAD_INPUT;
    }
    *loop = (chat_loop){.list = items, .depth = outer == NULL ? 1 : outer->depth + 1};
    greta_status status = GRETA_OK;
    bool has_round = false; /* that reached its end: jinja2 runs `else` where there is none */
    c->loop = loop;
    for (; loop->i < items->n && status == GRETA_OK && c->flow != FLOW_BREAK; loop->i++) {
        saved_scope saved = scope_open(c);
        c->flow = FLOW_ON;
        status = loop_round(c, n, loop);
        scope_close(c, saved);
        has_round = has_round || c->flow == FLOW_ON;
    }
    c->flow = FLOW_ON;
    c->loop = outer;
    return status != GRETA_OK || has_round || n->d == NULL ? status : chat_run(c, n->d);
}

static greta_status branch(chat *c, const node *n)
{
    for (;;) {
        value holds;
        GRETA_TRY(chat_evaluate(c, n->a, &holds));
        if (value_is_true(holds)) {
            return chat_run(c, n->b);
        }
        if (n->c == NULL || n->c->kind != NODE_IF || !n->c->is_not) {
            return n->c == NULL ? GRETA_OK : chat_run(c, n->c);
        }
        n = n->c; /* elif */
    }
}

static greta_status statement(chat *c, const node *n)
{
    value v = {0};
    switch (n->kind) {
    case NODE_DATA:
        text_append(c->out, n->text, n->length);
        return GRETA_OK;
    case NODE_PRINT:
        return print(c, n);
    case NODE_IF:
        return branch(c, n);
    case NODE_FOR:
        return loop_run(c, n);
    case NODE_SET:
        GRETA_TRY(chat_evaluate(c, n->b, &v));
        return assign(c, n->a, v);
    case NODE_SET_BLOCK:
        return set_block(c, n);
    case NODE_MACRO:
        v.kind = VALUE_MACRO;
        v.macro = n;
        return variable_set(c, n, v);
    case NODE_BREAK:
    case NODE_CONTINUE:
        if (c->loop == NULL) {
            return chat_fail(c, n->line, "leaves a loop where there is none");
        }
        c->flow = n->kind == NODE_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return GRETA_OK;
    case NODE_SCOPE: {
        saved_scope saved = scope_open(c);
        greta_status status = chat_run(c, n->a);
        scope_close(c, saved);
        return status;
    }
    default:
        return chat_unsupported(c, n, "the statement", n->text, n->length);
    }
}

greta_status chat_run(chat *c, const node *body)
{
    for (const node *n = body; n != NULL && c->flow == FLOW_ON; n = n->next) {
        GRETA_TRY(chat_work(c, 1));
        GRETA_TRY(statement(c, n));
        if (c->out->length > LIMIT_PROMPT_BYTES) {
            return error_set(c->err, GRETA_BAD_INPUT, "the chat text has more than %u bytes",
                             LIMIT_PROMPT_BYTES);
        }
    }
    return GRETA_OK;
}
