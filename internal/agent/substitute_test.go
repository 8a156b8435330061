package agent

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/testkit"
	"lighter/store"
)

// fakeServers are a Substituter. Of an item with "have" in its name they have a copy.
type fakeServers struct {
	store *fakeStore // nil: nothing is added

	mu    sync.Mutex
	calls []string // servers, and names of the items
	now   int      // calls under way
	most  int

	called chan string                     // gets the names of each call that is held, if not nil
	hold   func(ctx context.Context) error // is waited for, if not nil
}

func (f *fakeServers) Substitute(ctx context.Context, urls []string, paths []store.Path) (fetched []store.Path, err error) {
	var names []string
	for _, p := range paths {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	call := strings.Join(names, " ")
	f.mu.Lock()
	f.calls = append(f.calls, strings.Join(urls, " ")+": "+call)
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
	}()
	if f.called != nil {
		f.called <- call
	}
	if f.hold != nil {
		if err := f.hold(ctx); err != nil {
			return nil, err
		}
	}
	for _, p := range paths {
		if strings.Contains(p.Name(), "panic") {
			panic("at the disco")
		}
		if strings.Contains(p.Name(), "broken") {
			err = errors.Join(err, errors.New(p.Name()+" is broken"))
		}
		if !strings.Contains(p.Name(), "have") {
			continue
		}
		if f.store != nil {
			if err := f.store.add(ctx, p, "from a server", nil); err != nil {
				return fetched, err
			}
		}
		fetched = append(fetched, p)
	}
	return fetched, err
}

func (f *fakeServers) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

const server = "https://a.example"

// substituting returns a request that names the server.
func substituting(t *testing.T, attempt int, name string, inputs ...store.Path) *agentapi.BuildRequest {
	t.Helper()
	req := request(t, attempt, name, "", inputs...)
	req.SubstituteURLs = []string{server}
	return req
}

func TestSubstitute(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	servers := &fakeServers{store: s}
	r := start(t, s, func(o *Options) { o.Substituter = servers })
	have, lack, broken := source(t, "have"), source(t, "lack"), source(t, "broken")
	req := substituting(t, 1, "a", have, lack, broken)
	if got := r.put("a", req); got.State != agentapi.Rooted || !cmp.Equal(got.Missing, []store.Path{lack, broken}) {
		t.Errorf("got %+v", got)
	}
	// What could not be had is not asked for again, not for another build either.
	r.put("a", req)
	r.put("b", substituting(t, 1, "b", lack, source(t, "lack-too")))
	other := substituting(t, 1, "c", lack)
	other.SubstituteURLs = []string{"file:///srv/x"}
	r.put("c", other)
	if got := r.put("d", substituting(t, 1, "d", source(t, "have-all"))); got.State == agentapi.Rooted {
		t.Errorf("with all inputs: got %+v", got)
	}
	without := request(t, 1, "e", "", source(t, "have-not"))
	if got := r.put("e", without); got.State != agentapi.Rooted {
		t.Errorf("without servers: got %+v", got)
	}
	want := []string{server + ": broken have lack", server + ": lack-too", "file:///srv/x: lack", server + ": have-all"}
	if diff := cmp.Diff(want, servers.seen()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"ftp://a", "https://a b", "", "%"} {
		req.SubstituteURLs = []string{bad}
		_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "a"}, req)
		wantCode(t, err, 400, agentapi.CodeBadRequest)
	}
}

// TestSubstituteOnce has two builds that want the same.
func TestSubstituteOnce(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	free := make(chan struct{})
	servers := &fakeServers{store: s, called: make(chan string, 10), hold: func(context.Context) error { <-free; return nil }}
	r := start(t, s, func(o *Options) { o.Substituter = servers })
	shared := source(t, "have")
	var group sync.WaitGroup
	put := func(id string, inputs ...store.Path) {
		req := substituting(t, 1, id, inputs...)
		group.Go(func() {
			if got, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req); err != nil || got.State == agentapi.Rooted {
				t.Errorf("%s: got %+v, %v", id, got, err)
			}
		})
	}
	put("a", shared)
	if got := <-servers.called; got != "have" {
		t.Errorf("first call: %s", got)
	}
	put("b", shared, source(t, "have-too"))
	if got := <-servers.called; got != "have-too" {
		t.Errorf("second call: %s", got)
	}
	close(free)
	group.Wait()
	if got := servers.seen(); len(got) != 2 {
		t.Errorf("calls: %q", got)
	}
}

// TestSubstituteEnds cancels and replaces builds whose servers don't answer.
func TestSubstituteEnds(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	hangs := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	servers := &fakeServers{called: make(chan string, 10), hold: hangs}
	r := start(t, s, func(o *Options) { o.Substituter = servers })
	answers := make(chan error, 10)
	put := func(attempt int) {
		req := substituting(t, attempt, "a", source(t, "have"))
		go func() {
			_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "a"}, req)
			answers <- err
		}()
		<-servers.called
	}
	put(1)
	put(2) // which ends the first one, and asks again
	if err := <-answers; err != nil {
		t.Errorf("the replaced attempt: %v", err)
	}
	if err := r.client.DeleteBuild(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := <-answers; err != nil {
		t.Errorf("the canceled attempt: %v", err)
	}
	put(3)
	r.stop() // which does not wait for it
	<-answers
}

// list makes n items.
func list(t *testing.T, names ...string) []store.Path {
	t.Helper()
	var paths []store.Path
	for _, name := range names {
		paths = append(paths, source(t, name))
	}
	return paths
}

func newTestSubstitutes(from Substituter) *substitutes {
	opts := Options{Store: storetestNothing{}, StateDir: "x", Substituter: from}.withDefaults()
	return newSubstitutes(&opts, opts.Logger)
}

// storetestNothing is a store that is never asked.
type storetestNothing struct{ store.Store }

func TestSubstituteTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := &fakeServers{hold: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }}
		s := newTestSubstitutes(servers)
		began := time.Now()
		s.fetch(t.Context(), []string{server}, list(t, "a", "b"))
		if took := time.Since(began); took != defaultSubstitute {
			t.Errorf("it waited for %s", took)
		}
		s.fetch(t.Context(), []string{server}, list(t, "b", "a"))
		if n := len(servers.seen()); n != 1 {
			t.Errorf("%d calls; it asked again at once", n)
		}
		time.Sleep(defaultSubstitute)
		canceled, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		s.fetch(canceled, []string{server}, list(t, "a"))
		if n := len(servers.seen()); n != 2 {
			t.Errorf("%d calls; it did not ask again later", n)
		}
		// Who gave up knows nothing of the servers.
		s.fetch(t.Context(), []string{server}, list(t, "a"))
		if n := len(servers.seen()); n != 3 || len(s.fetching) != 0 {
			t.Errorf("%d calls, %d items still asked for", n, len(s.fetching))
		}
	})
}

// TestSubstituteAside has servers that never answer: only the first builds wait for them.
func TestSubstituteAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := true
		servers := &fakeServers{hold: func(ctx context.Context) error {
			if !silent {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		s := newTestSubstitutes(servers)
		fetch := func(name string, waits time.Duration, calls int) {
			t.Helper()
			began := time.Now()
			s.fetch(t.Context(), []string{server}, list(t, name))
			if took := time.Since(began); took != waits || len(servers.seen()) != calls {
				t.Errorf("%s: waited for %s, %d calls; want %s, %d", name, took, len(servers.seen()), waits, calls)
			}
		}
		var group sync.WaitGroup
		for _, name := range []string{"a", "b"} {
			group.Go(func() { s.fetch(t.Context(), []string{server}, list(t, name)) })
		}
		group.Wait() // they count as one
		fetch("c", 0, 2)
		time.Sleep(defaultSubstitute)
		fetch("d", defaultSubstitute, 3)
		time.Sleep(defaultSubstitute) // it is twice as long now
		fetch("e", 0, 3)
		time.Sleep(defaultSubstitute)
		silent = false
		fetch("f", 0, 4)
		fetch("g", 0, 5)
		if len(s.aside) != 0 {
			t.Errorf("%v is still aside", s.aside)
		}
		for range 2 * maxAsideFactor {
			s.tookTooLong(server, time.Now())
			time.Sleep(maxAsideFactor * defaultSubstitute)
		}
		if times := s.aside[server].times; times != maxAsideFactor {
			t.Errorf("they are left alone %d times as long", times)
		}
		for i := range 2 * maxAside {
			s.tookTooLong(strconv.Itoa(i), time.Now())
		}
		if len(s.aside) != maxAside {
			t.Errorf("%d lists of servers are remembered", len(s.aside))
		}
	})
}

func TestSubstituteBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := &fakeServers{hold: func(context.Context) error { time.Sleep(time.Second); return nil }}
		s := newTestSubstitutes(servers)
		var group sync.WaitGroup
		for _, p := range list(t, "a", "b", "c", "d", "e", "f", "g", "h", "i") {
			group.Go(func() { s.fetch(t.Context(), []string{server}, []store.Path{p, p}) })
		}
		group.Wait()
		if len(servers.seen()) != 9 || servers.most != substituteRuns {
			t.Errorf("%d calls, at most %d at a time", len(servers.seen()), servers.most)
		}
	})
}

func TestSubstitutePanics(t *testing.T) {
	s := newTestSubstitutes(new(fakeServers))
	func() {
		defer func() { _ = recover() }()
		s.fetch(t.Context(), []string{server}, list(t, "panic", "have"))
	}()
	if len(s.fetching) != 0 || len(s.slots) != 0 {
		t.Errorf("%d items and %d slots are taken forever", len(s.fetching), len(s.slots))
	}
}

func TestSubstitutesRemembersNotTooMuch(t *testing.T) {
	s := newTestSubstitutes(new(fakeServers))
	now := time.Now()
	old := store.Path("old")
	for i := range maxTried {
		until := now.Add(time.Hour)
		if i%2 == 0 {
			until = now
		}
		s.tried[wanted{strconv.Itoa(i), old}] = until
	}
	n := len(s.tried)
	mine, _ := s.claim(server, list(t, "a"), now)
	s.release(server, mine, mine, now)
	if len(s.tried) >= n || s.tried[wanted{server, mine[0]}].IsZero() {
		t.Errorf("%d are remembered of %d", len(s.tried), n)
	}
}
