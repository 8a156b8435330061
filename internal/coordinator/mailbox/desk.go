package mailbox

import (
	"context"
	"sync/atomic"
)

// Desk is where one goroutine takes functions to call, and gives each of them what is its own alone. Who
// waits for that waits no longer than the desk is open.
type Desk[T any] struct {
	*Mailbox[func(T)]
	closed chan struct{}
	why    error
}

// NewDesk returns an open desk. why is the error of those who wait when it is closed.
func NewDesk[T any](why error) *Desk[T] {
	return &Desk[T]{New[func(T)](), make(chan struct{}), why}
}

// Close is called once, when no more functions are taken.
func (d *Desk[T]) Close() { close(d.closed) }

// Closed is closed when the desk is.
func (d *Desk[T]) Closed() <-chan struct{} { return d.closed }

// Do has f called, and waits for that. After an error f was not called, and never is: what it would
// have written can be read.
func (d *Desk[T]) Do(ctx context.Context, f func(T)) error {
	done := make(chan error, 1)
	var decided atomic.Bool // whether f is called
	d.Put(func(own T) {
		if decided.CompareAndSwap(false, true) {
			defer close(done)
			f(own)
		}
	})
	err := d.Await(ctx, done)
	if err != nil && !decided.CompareAndSwap(false, true) {
		return <-done
	}
	return err
}

// Await waits for what a function that was put will say.
func (d *Desk[T]) Await(ctx context.Context, said <-chan error) error {
	select {
	case err := <-said:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-d.closed:
		return d.why
	}
}

// While returns a context that ends with ctx, or when the desk is closed.
func (d *Desk[T]) While(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-d.closed:
			cancel(d.why)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
	}
}
