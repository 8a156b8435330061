package scheduler

// heap is a binary heap. Unlike container/heap it can be walked in order without
// being changed, which is what lets Assign be pure.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	moved func(item T, index int) // may be nil
}

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	h.up(len(h.items) - 1)
}

func (h *heap[T]) pop() T {
	top := h.items[0]
	h.remove(0)
	return top
}

func (h *heap[T]) remove(i int) {
	last := len(h.items) - 1
	h.items[i] = h.items[last]
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	if i < last {
		h.fix(i)
	}
}

// fix restores the order after the item at i has changed.
func (h *heap[T]) fix(i int) { h.up(h.down(i)) }

func (h *heap[T]) up(i int) {
	item := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(item, h.items[parent]) {
			break
		}
		h.set(i, h.items[parent])
		i = parent
	}
	h.set(i, item)
}

func (h *heap[T]) down(i int) int {
	item := h.items[i]
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if child+1 < len(h.items) && h.less(h.items[child+1], h.items[child]) {
			child++
		}
		if !h.less(h.items[child], item) {
			break
		}
		h.set(i, h.items[child])
		i = child
	}
	h.set(i, item)
	return i
}

func (h *heap[T]) set(i int, item T) {
	h.items[i] = item
	if h.moved != nil {
		h.moved(item, i)
	}
}

// walk yields the items of a heap in order and leaves it as it is. The k first
// items cost O(k log k) however many there are: the next one is always a child
// of one that was yielded.
type walk[T any] struct {
	of       *heap[T]
	frontier heap[int]
}

func (h *heap[T]) walk() *walk[T] {
	w := &walk[T]{of: h}
	w.frontier.less = func(a, b int) bool { return h.less(h.items[a], h.items[b]) }
	w.add(0)
	return w
}

func (w *walk[T]) add(i int) {
	if i < len(w.of.items) {
		w.frontier.push(i)
	}
}

func (w *walk[T]) peek() (item T, ok bool) {
	if len(w.frontier.items) == 0 {
		return item, false
	}
	return w.of.items[w.frontier.items[0]], true
}

func (w *walk[T]) next() {
	i := w.frontier.pop()
	w.add(2*i + 1)
	w.add(2*i + 2)
}
