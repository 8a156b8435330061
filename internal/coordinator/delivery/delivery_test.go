package delivery

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
)

// TestIdleConversation: a hook that says nothing, or half of something, is not
// listened to for ever.
func TestIdleConversation(t *testing.T) {
	for _, said := range []string{"", "a\x00", "b\x00\x00\xff\xff{"} {
		synctest.Test(t, func(t *testing.T) {
			hook, conn := net.Pipe()
			defer hook.Close()
			ended := make(chan error, 1)
			go func() {
				_, _, err := new(Config).converse(t.Context(), conn, hookapi.NewReader(conn), nil)
				ended <- err
			}()
			if _, err := io.WriteString(hook, said); err != nil {
				t.Fatal(err)
			}
			time.Sleep(questionPause - time.Second)
			synctest.Wait()
			if len(ended) > 0 {
				t.Errorf("after %q: it ended early: %v", said, <-ended)
				return
			}
			time.Sleep(2 * time.Second)
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %q: got %v", said, err)
			}
		})
	}
}

// open opens a conversation. The hook's end of it hears what it is told, and says nothing.
func open(t *testing.T, order *hookapi.Order, alive func(context.Context) error) (d *Delivery, hook net.Conn, heard func(hookapi.Kind) int) {
	t.Helper()
	hook, conn := net.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	d = Open(ctx, cancel, &Config{Alive: alive}, conn, hookapi.NewReader(conn), order)
	t.Cleanup(func() {
		hook.Close()
		d.Close()
	})
	var mu sync.Mutex
	frames := make(map[hookapi.Kind]int)
	go func() {
		for r := hookapi.NewReader(hook); ; {
			kind, _, err := r.Next()
			if err != nil {
				return
			}
			mu.Lock()
			frames[kind]++
			mu.Unlock()
		}
	}()
	return d, hook, func(kind hookapi.Kind) int {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return frames[kind]
	}
}

// TestReceipts has a hook say something of shipments, of which the second is under way.
func TestReceipts(t *testing.T) {
	for _, test := range []struct {
		name    string
		said    []int
		arrives bool
		ended   error
	}{
		{"of the second", []int{2}, true, nil},
		{"of the first, which is void", []int{1, 1}, false, nil},
		{"of both", []int{1, 2}, true, nil},
		{"twice", []int{2, 2}, true, hookapi.ErrFrame},
		{"of none", []int{0}, false, hookapi.ErrFrame},
		{"of one to come", []int{3}, false, hookapi.ErrFrame},
		{"of one before the first", []int{-1}, false, hookapi.ErrFrame},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, hook, heard := open(t, &hookapi.Order{}, func(context.Context) error { return nil })
				var receipts <-chan hookapi.Receipt
				for range 2 {
					var err error
					if receipts, err = d.announce(new(hookapi.Shipment)); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range test.said {
					if err := hookapi.WriteJSON(hook, hookapi.Delivered, hookapi.Receipt{Number: n}); err != nil {
						t.Fatal(err)
					}
				}
				if n := heard(hookapi.Transfer); n != 2 {
					t.Errorf("heard of %d shipments", n)
				}
				if len(receipts) > 0 != test.arrives {
					t.Errorf("a receipt arrived: %t", len(receipts) > 0)
				}
				if err := context.Cause(d.Context()); !errors.Is(err, test.ended) {
					t.Errorf("ended with %v, want %v", err, test.ended)
				}
			})
		})
	}
}

// TestVoidShipment: nothing more is written of a shipment once there is another one.
func TestVoidShipment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, heard := open(t, &hookapi.Order{}, func(context.Context) error { return nil })
		for range 2 {
			if _, err := d.announce(new(hookapi.Shipment)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.writeShipment(1, hookapi.End, nil); !errors.Is(err, errVoid) {
			t.Errorf("of the first: %v", err)
		}
		if err := d.writeShipment(2, hookapi.End, nil); err != nil {
			t.Errorf("of the second: %v", err)
		}
		if n := heard(hookapi.End); n != 1 {
			t.Errorf("heard of %d ends", n)
		}
	})
}

// TestAliveIsSaid: how the build stands is said again as long as the coordinator goes on, and
// not for one that does not, however well its sockets do.
func TestAliveIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := &hookapi.Order{}
		every := order.AliveEvery()
		turns := make(chan struct{}, 3) // of the coordinator's loop
		turns <- struct{}{}
		d, _, heard := open(t, order, func(ctx context.Context) error {
			select {
			case <-turns:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		want := func(n int) {
			t.Helper()
			if got := heard(hookapi.State); got != n {
				t.Errorf("said %d times, want %d", got, n)
			}
		}
		time.Sleep(every + every/2)
		want(0) // there is nothing to say yet
		if err := d.writeState(hookapi.Progress{State: api.Building}); err != nil {
			t.Fatal(err)
		}
		want(1)
		for range 3 {
			turns <- struct{}{}
		}
		time.Sleep(2 * every)
		want(3)
		time.Sleep(time.Hour)
		want(4)
		turns <- struct{}{}
		want(5)
	})
}
