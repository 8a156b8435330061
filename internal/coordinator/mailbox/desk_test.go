package mailbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestDesk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("closed")
		d := NewDesk[*int](why)
		own := 0
		take := func() {
			for _, f := range d.Take() {
				f(&own)
			}
		}
		results := make(chan error)
		add := func(ctx context.Context) { results <- d.Do(ctx, func(n *int) { *n++ }) }

		go add(t.Context())
		<-d.Ready()
		if take(); <-results != nil || own != 1 {
			t.Errorf("f was called %d times", own)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		go add(ctx)
		synctest.Wait()
		cancel(enough)
		if err := <-results; !errors.Is(err, enough) {
			t.Errorf("when its context ends: %v", err)
		}
		if take(); own != 1 {
			t.Error("f was called after its caller was told that it would not be")
		}
		while, stop := d.While(t.Context())
		defer stop()
		go add(t.Context())
		synctest.Wait()
		d.Close()
		if err := <-results; !errors.Is(err, why) || own != 1 {
			t.Errorf("when it is closed: %v", err)
		}
		if <-while.Done(); !errors.Is(context.Cause(while), why) {
			t.Errorf("what lasts while it is open ends for %v", context.Cause(while))
		}
	})
}
