package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/ledger"
	"lighter/store"
)

// testUser is a client that may also say what no good client says.
type testUser struct {
	*apiclient.Client
	http *http.Client
}

// raw sends a body as it is, and returns the answer's; where that is an error, as such.
func (u *testUser) raw(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://x"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if e := (&api.Error{Status: resp.StatusCode}); err == nil && resp.StatusCode >= 400 {
		err = errors.Join(json.Unmarshal(text, e), e)
	}
	return text, err
}

// as serves the API to somebody of whom the kernel would say that.
func (f *farm) as(p *TestPeer) *testUser {
	f.t.Helper()
	l, err := net.Listen("unix", filepath.Join(f.t.TempDir(), "s"))
	if err != nil {
		f.t.Fatal(err)
	}
	server := &http.Server{Handler: f.handler(), ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		return WithPeer(ctx, p)
	}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		server.Serve(l)
	}()
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
	client := &testUser{apiclient.NewClientDialer(dial), &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, DisableKeepAlives: true,
	}}}
	f.t.Cleanup(func() {
		client.Close()
		server.Close()
		<-over
	})
	return client
}

func caller(uid uint32, groups ...uint32) *TestPeer {
	return &TestPeer{UID: uid, GID: uid, Groups: groups, Name: func() string { return map[uint32]string{5: "alice", 6: "bob"}[uid] }}
}

func code(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestOperatorsAlone has somebody who may submit ask for all that only operators may do.
func TestOperatorsAlone(t *testing.T) {
	f := restricted(newFarm(t, nil, "m1"))
	ctx := t.Context()
	alice, root := f.as(caller(5)), f.as(caller(0))
	m := "/v1/machines/m1/"
	for _, path := range []string{
		"/v1/pause", "/v1/resume", "/v1/reload", "/v1/prune", m + "drain", m + "resume", m + "tags", m + "gc", m + "check",
		"/v1/hooks/retry", "/v1/hooks/drop", "/v1/hooks/x/test",
	} {
		_, err := alice.raw(ctx, http.MethodPost, path, []byte(`{"reason":"x"}`))
		if code(err) != api.CodeForbidden || !strings.Contains(err.Error(), "alice may submit and look, but only root and ops may operate; see lighter.Toml") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if s, err := root.Status(ctx); err != nil || s.Paused != "" || s.Machines[0].Draining || !s.Caller.Operates {
		t.Errorf("after that: %+v, %v", s, err)
	}
	if s, err := alice.Status(ctx); err != nil || s.Caller.Operates || s.Caller.User != "alice" || s.Caller.Operators != "root and ops" {
		t.Errorf("alice's rights: %+v, %v", s.Caller, err)
	}
	for _, operator := range []*TestPeer{caller(0), caller(1), caller(7), caller(5, 70)} {
		if err := f.as(operator).Pause(ctx, ""); err != nil {
			t.Errorf("pause by %+v: %v", operator, err)
		}
	}
	if err := root.Resume(ctx); err != nil {
		t.Error(err)
	}
	// Of whom nothing is known, nothing is taken.
	nobody, closeAll := f.serve(socketOf(t))
	defer closeAll()
	if _, err := nobody.Status(ctx); code(err) != api.CodeForbidden {
		t.Errorf("without credentials: got %v", err)
	}
	if _, err := nobody.Submit(ctx, api.Request{Derivation: f.drv("one", "")}); code(err) != api.CodeForbidden {
		t.Errorf("without credentials: got %v", err)
	}
	// Rights can change while connections are open.
	f.setAccess(&TestAccess{UID: 5})
	if err := alice.Pause(ctx, ""); err != nil {
		t.Errorf("after the change: %v", err)
	}
	if err := f.as(caller(7)).Resume(ctx); code(err) != api.CodeForbidden {
		t.Errorf("after the change: %v", err)
	}
}

// TestOwnBuilds has two users work with builds of each other.
func TestOwnBuilds(t *testing.T) {
	f := restricted(newFarm(t, nil, "m1"))
	ctx := t.Context()
	alice, bob, ops := f.as(caller(5)), f.as(caller(6)), f.as(caller(7))
	if err := ops.Pause(ctx, ""); err != nil {
		t.Fatal(err)
	}
	lib := f.drv("lib", "")
	tags := map[string]string{"set": "x"}
	submit := func(c *testUser, drv store.Path) *api.Build {
		t.Helper()
		b, err := c.Submit(ctx, api.Request{Derivation: drv, Tags: tags})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	libA, libB, appB := submit(alice, lib), submit(bob, lib), submit(bob, f.drv("app", "", lib))
	if want := (api.Submitter{UID: 5, User: "alice"}); libA.Submitter == nil || *libA.Submitter != want {
		t.Errorf("the submitter is %+v, want %+v", libA.Submitter, want)
	}
	kept, err := f.ledger.Build(ctx, libB.ID)
	if err != nil || kept.Submitter == nil || kept.Submitter.UID != 6 {
		t.Errorf("the ledger has %+v, %v", kept.Submitter, err)
	}
	// Nobody can say that he is another.
	if _, err := alice.raw(ctx, http.MethodPost, "/v1/builds", []byte(`{"derivation":"`+string(lib)+`","submitter":{"uid":0}}`)); code(err) != api.CodeBadRequest {
		t.Errorf("a submitter in the request: %v", err)
	}
	for name, err := range map[string]error{
		"cancel":     second(alice.CancelAll(ctx, &api.Selection{IDs: []string{libA.ID, libB.ID}})),
		"cancel one": second(alice.raw(ctx, http.MethodPost, "/v1/builds/"+libB.ID+"/cancel", nil)),
		"retry":      second(alice.Retry(ctx, &api.Selection{IDs: []string{libB.ID}})),
		"priority":   second(alice.Prioritise(ctx, &api.Selection{IDs: []string{libB.ID}, Priority: 1})),
		"too much":   second(alice.Prioritise(ctx, &api.Selection{IDs: []string{libA.ID}, Priority: 101})),
		"too urgent": second(alice.Submit(ctx, api.Request{Derivation: lib, Priority: 101})),
		"a folder":   second(alice.Submit(ctx, api.Request{Derivation: lib, DerivationSubstituteURLs: []string{"file:///etc"}})),
		"FILE":       second(alice.Submit(ctx, api.Request{Derivation: lib, DerivationSubstituteURLs: []string{"FILE:///etc"}})),
	} {
		if code(err) != api.CodeForbidden {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ops.Prioritise(ctx, &api.Selection{IDs: []string{libB.ID}, Priority: 101}); err != nil {
		t.Errorf("an operator's priority: %v", err)
	}
	// A filter selects what is one's own, and says what is left.
	done, err := alice.CancelAll(ctx, &api.Selection{Filter: &api.Filter{Tags: tags}, WithDependents: true})
	if err != nil || !slices.Equal(done.IDs, []string{libA.ID}) || done.Others < 2 {
		t.Errorf("cancel by tag: %+v, %v", done, err)
	}
	if b := f.awaitState(libA.ID, api.Canceled); b.Reason != "canceled by alice" {
		t.Errorf("the reason is %q", b.Reason)
	}
	if done, err := alice.Retry(ctx, &api.Selection{IDs: []string{libA.ID}}); err != nil || done.Count != 1 {
		t.Errorf("retrying one's own: %+v, %v", done, err)
	}
	if done, err := bob.CancelAll(ctx, &api.Selection{IDs: []string{libB.ID}}); err != nil || done.Count != 1 {
		t.Errorf("canceling one's own: %+v, %v", done, err)
	}
	// What both wanted, and app needs, goes on.
	if err := ops.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitState(libA.ID, api.Succeeded)
	f.awaitState(appB.ID, api.Succeeded)
	for filter, want := range map[string]int{"alice": 1, "5": 1, "bob": 2, "7": 0, "": 3} {
		page, err := alice.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{User: filter, Tags: tags}})
		if err != nil || len(page.Builds) != want {
			t.Errorf("builds of %q: %d, %v, want %d", filter, len(page.Builds), err, want)
		}
	}
	f.idle()
}

// TestCheckIsOfWhoAsksForIt has somebody who does not operate ask for a check: what is built
// for it is that user's too.
func TestCheckIsOfWhoAsksForIt(t *testing.T) {
	f := restricted(newFarm(t, nil, "m1", "m2"))
	base := f.drv("base", "")
	b, err := f.as(caller(5)).Submit(t.Context(), api.Request{Derivation: f.drv("one", "", base), Check: 2})
	if err != nil {
		t.Fatal(err)
	}
	f.awaitState(b.ID, api.Succeeded)
	list, err := f.as(caller(5)).Builds(t.Context(), apiclient.BuildFilter{})
	if err != nil || len(list.Builds) < 2 {
		t.Fatalf("got %v, %v", list, err)
	}
	for _, b := range list.Builds {
		if b.Submitter == nil || b.Submitter.UID != 5 {
			t.Errorf("%s is of %v", b.Derivation, b.Submitter)
		}
	}
	f.idle()
}

// TestSubstituteOfCanceledBuildIsNobodys has somebody cancel a build that others need, and
// then the one that the coordinator makes in its place.
func TestSubstituteOfCanceledBuildIsNobodys(t *testing.T) {
	f := restricted(newFarm(t, nil, "m1"))
	ctx := t.Context()
	alice, bob := f.as(caller(5)), f.as(caller(6))
	if err := f.as(caller(0)).Pause(ctx, ""); err != nil {
		t.Fatal(err)
	}
	lib := f.drv("lib", "")
	mine, err := alice.Submit(ctx, api.Request{Derivation: lib})
	if err != nil {
		t.Fatal(err)
	}
	app, err := bob.Submit(ctx, api.Request{Derivation: f.drv("app", "", lib)})
	if err != nil {
		t.Fatal(err)
	}
	f.awaitState(app.ID, api.Waiting)
	if err := alice.Cancel(ctx, mine.ID); err != nil {
		t.Fatal(err)
	}
	list, err := alice.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{Derivation: lib, States: ledger.NonFinal()}})
	if err != nil || len(list.Builds) != 1 {
		t.Fatalf("in its place: %+v, %v", list, err)
	}
	if err := alice.Cancel(ctx, list.Builds[0].ID); code(err) != api.CodeForbidden {
		t.Errorf("canceling it: %v", err)
	}
	if err := f.as(caller(0)).Resume(ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitState(app.ID, api.Succeeded)
	f.idle()
}

func second[T any](_ T, err error) error { return err }
