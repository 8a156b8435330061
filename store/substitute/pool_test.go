package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/local"
	"lighter/store/narinfo"
)

// newPool makes a pool, and a store that is empty, which the test closes.
func newPool(t *testing.T, trusted func() (*signature.ACL, error)) (*Pool, *local.Store) {
	t.Helper()
	s := newStore(t)
	p := NewPool(s, Options{ACL: trusted, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(p.Close)
	return p, s
}

// What is on no server, and what refers to it, is left out, and the rest is fetched.
func TestPoolFetchesWhatIsThere(t *testing.T) {
	testkit.CheckLeaks(t)
	o := newOrigin(t)
	whole, partly := o.graph("whole"), o.graph("partly")
	delete(o.files, narinfo.Name(partly[5])) // each further one of the chain refers to it
	p, s := newPool(t, acl(o))
	all := slices.Concat(partly, whole)
	got, err := p.Substitute(t.Context(), []string{o.listen()}, all)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(partly[:5], whole)
	if !slices.Equal(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	wantValid(t, s, want)
	missing, err := store.Missing(t.Context(), s, all)
	if err != nil || !slices.Equal(missing, partly[5:]) {
		t.Errorf("missing: %s, %v", missing, err)
	}
	if n := o.requests("nar/"); n != len(want) {
		t.Errorf("%d downloads of %d items", n, len(want))
	}
}

// An item that is not what it is said to be is an error, and the others come all the same.
func TestPoolGoesOnAfterErrors(t *testing.T) {
	testkit.CheckLeaks(t)
	o, stranger := newOrigin(t), newOrigin(t)
	all := o.graph("g")
	url := o.listen()
	o.put("nar/zstd/"+all[9].Base(), compress(t, narinfo.Zstd, o.nar(all[2])))
	foreign := stranger.text("foreign", "x")
	o.put(narinfo.Name(foreign), stranger.files[narinfo.Name(foreign)])
	p, s := newPool(t, acl(o))
	got, err := p.Substitute(t.Context(), []string{url}, append(slices.Clone(all), foreign))
	if !errors.Is(err, store.ErrCorrupt) || !errors.Is(err, store.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(got, all[:9]) {
		t.Errorf("got %s\nwant %s", got, all[:9])
	}
	wantValid(t, s, all[:9])
	if valid, err := store.IsValid(t.Context(), s, foreign); err != nil || valid {
		t.Errorf("what nobody signed who counts is valid: %v", err)
	}
}

// A server that is down is an error, and what the next one has comes from there.
func TestPoolWithServersDown(t *testing.T) {
	testkit.CheckLeaks(t)
	o, dead := newOrigin(t), newOrigin(t)
	all := o.graph("g")
	down := dead.listen()
	dead.wrap = func(_ string, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	p, _ := newPool(t, acl(o))
	got, err := p.Substitute(t.Context(), []string{down}, all)
	if err == nil || !strings.Contains(err.Error(), down) || len(got) > 0 {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err = p.Substitute(t.Context(), []string{down, o.listen()}, all); err != nil || !slices.Equal(got, all) {
		t.Errorf("got %s, %v", got, err)
	}
}

// unwritable is a store that takes nothing.
type unwritable struct {
	*local.Store
	mu    sync.Mutex
	asked int
}

var errFull = errors.New("the disk is full")

func (u *unwritable) AddSubstitute(ctx context.Context, info *store.Info, _ io.Reader) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	return errFull
}

// What is wrong with the store is wrong with all that would follow.
func TestPoolEndsWithTheStoresErrors(t *testing.T) {
	testkit.CheckLeaks(t)
	o := newOrigin(t)
	var many []store.Path
	for i := range 50 {
		many = append(many, o.text(fmt.Sprint("item-", i), "x"))
	}
	s := &unwritable{Store: newStore(t)}
	p := NewPool(s, Options{ACL: acl(o), Logger: slog.New(slog.DiscardHandler), Parallel: 4})
	defer p.Close()
	if got, err := p.Substitute(t.Context(), []string{o.listen()}, many); !errors.Is(err, errFull) || len(got) > 0 {
		t.Errorf("got %s, %v", got, err)
	}
	if s.asked > 8 {
		t.Errorf("%d items were given to a store that is full", s.asked)
	}
}

func TestPoolCanceled(t *testing.T) {
	testkit.CheckLeaks(t)
	o := newOrigin(t)
	all := o.graph("g")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	o.wrap = func(name string, _ http.ResponseWriter) bool {
		if strings.HasPrefix(name, "nar/") {
			cancel(enough)
		}
		return false
	}
	p, _ := newPool(t, acl(o))
	if _, err := p.Substitute(ctx, []string{o.listen()}, all); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestPoolKeepsFewClients(t *testing.T) {
	o := newOrigin(t)
	p, _ := newPool(t, acl(o))
	list := func(i int) []string { return []string{fmt.Sprintf("http://s%d.example", i)} }
	first, err := p.take(list(0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxIdleClients {
		c, err := p.take(list(i))
		if err != nil {
			t.Fatal(err)
		}
		p.giveBack(c)
	}
	if again, err := p.take(list(0)); err != nil || again != first || len(p.clients) != maxIdleClients+1 {
		t.Errorf("%d clients; the one in use was replaced: %v (%v)", len(p.clients), again != first, err)
	}
	p.giveBack(first)
	p.Close()
	if len(p.clients) != 1 {
		t.Errorf("%d clients are left of those that nobody used", len(p.clients)-1)
	}
	p.giveBack(first)
	if len(p.clients) != 0 || len(p.idle) != 0 {
		t.Error("a client is left after its last use")
	}
	if _, err := p.Substitute(t.Context(), list(0), nil); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := NewPool(newStore(t), Options{ACL: acl(o)}).Substitute(t.Context(), []string{"ftp://x"}, nil); err == nil {
		t.Error("any URL will do")
	}
}
