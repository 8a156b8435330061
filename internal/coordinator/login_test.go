package coordinator

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// loginFarm has a page's server, which is nobody's, and a clock that a test can put forward.
func loginFarm(t *testing.T) (f *farm, page *testUser, forward func(time.Duration)) {
	var by atomic.Int64
	f = restricted(newFarm(t, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
	}, "m1"))
	return f, f.as(caller(99)), func(d time.Duration) { by.Add(int64(d)) }
}

// logIn begins a session of a user.
func logIn(t *testing.T, page, user *testUser) *apiclient.Client {
	t.Helper()
	login, err := user.Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err := page.BeginSession(t.Context(), login.Token)
	if err != nil || session.Token == login.Token || len(session.Token) < 43 { // 256 bits
		t.Fatalf("got %+v, %v", session, err)
	}
	return page.As(session.Token)
}

// TestSessionHasThePersonsRights has a page act for alice, who may submit, and for an operator.
func TestSessionHasThePersonsRights(t *testing.T) {
	f, page, _ := loginFarm(t)
	ctx := t.Context()
	if err := page.Pause(ctx, ""); code(err) != api.CodeForbidden {
		t.Fatalf("the page itself: %v", err)
	}
	alice, ops := f.as(caller(5)), f.as(caller(6, 70))
	asAlice, asOps := logIn(t, page, alice), logIn(t, page, ops)
	if s, err := asAlice.Session(ctx); err != nil || s.Token != "" || s.Caller != (api.Caller{UID: 5, User: "alice", Operators: "root and ops"}) {
		t.Errorf("alice's session: %+v, %v", s, err)
	}
	if s, err := asOps.Status(ctx); err != nil || *s.Caller != (api.Caller{UID: 6, User: "bob", Operates: true}) {
		t.Errorf("an operator's status: %+v, %v", s, err)
	}
	if err := asOps.Pause(ctx, "moving house"); err != nil {
		t.Fatal(err)
	}
	if _, err := asOps.Drain(ctx, "m1", ""); err != nil {
		t.Fatal(err)
	}
	hers, err := asAlice.Submit(ctx, api.Request{Derivation: f.drv("one", "")})
	if err != nil || hers.Submitter == nil || *hers.Submitter != (api.Submitter{UID: 5, User: "alice"}) {
		t.Fatalf("alice's build: %+v, %v", hers, err)
	}
	others, err := ops.Submit(ctx, api.Request{Derivation: f.drv("other", "")})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"cancel another's": asAlice.Cancel(ctx, others.ID), "pause": asAlice.Pause(ctx, ""), "too urgent": second(asAlice.Prioritise(ctx, &api.Selection{IDs: []string{hers.ID}, Priority: 101})),
		"as the page itself": page.Cancel(ctx, hers.ID),
	} {
		if code(err) != api.CodeForbidden {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := asAlice.Prioritise(ctx, &api.Selection{IDs: []string{hers.ID}, Priority: 7}); err != nil {
		t.Error(err)
	}
	if done, err := asAlice.CancelAll(ctx, &api.Selection{IDs: []string{hers.ID}, Reason: "wrong patch"}); err != nil || done.Count != 1 {
		t.Errorf("her own: %+v, %v", done, err)
	}
	if done, err := asAlice.Retry(ctx, &api.Selection{IDs: []string{hers.ID}}); err != nil || done.Count != 1 {
		t.Errorf("her own: %+v, %v", done, err)
	}
	if _, err := asOps.ResumeMachine(ctx, "m1"); err != nil {
		t.Error(err)
	}
	// Rights are those of now.
	f.setAccess(&TestAccess{UID: 5, Operators: "root"})
	if err := asOps.Resume(ctx); code(err) != api.CodeForbidden {
		t.Errorf("whose rights were taken: %v", err)
	}
	if err := asAlice.Resume(ctx); err != nil {
		t.Errorf("who was given rights: %v", err)
	}
	f.awaitState(hers.ID, api.Succeeded)
	f.awaitState(others.ID, api.Succeeded)
	// All of it says who did it.
	if diff := cmp.Diff([]string{"paused by bob: moving house", "m1 drained by bob", "m1 resumed by bob", "resumed by alice"}, f.events(api.KindOperator)); diff != "" {
		t.Errorf("events of operators (-want +got):\n%s", diff)
	}
	told := f.reasons(hers.ID)
	for _, want := range []string{"alice set the priority to 7", "canceled by alice: wrong patch", "alice has it tried again"} {
		if !slices.Contains(told, want) {
			t.Errorf("events of the build: %q lack %q", told, want)
		}
	}
	f.idle()
}

// reasons returns those of a build's events.
func (f *farm) reasons(id string) (list []string) {
	f.t.Helper()
	if err := f.ledger.Events(f.t.Context(), 1, false, func(ev api.Event) error {
		if ev.Build == id {
			list = append(list, ev.Reason)
		}
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return list
}

// TestLoginIsGoodOnce looks at a login, uses it, and tries to use it again.
func TestLoginIsGoodOnce(t *testing.T) {
	f, page, forward := loginFarm(t)
	ctx := t.Context()
	login, err := f.as(caller(5)).Login(ctx)
	if err != nil || login.Caller.User != "alice" {
		t.Fatalf("got %+v, %v", login, err)
	}
	for range 2 {
		if look, err := page.WhoseLogin(ctx, login.Token); err != nil || look.Token != "" || look.Caller.User != "alice" || !look.Expires.Equal(login.Expires) {
			t.Errorf("a look: %+v, %v", look, err)
		}
	}
	if _, err := page.As(login.Token).Status(ctx); code(err) != api.CodeNoSession {
		t.Errorf("a login as a session: %v", err)
	}
	session, err := page.BeginSession(ctx, login.Token)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"again": login.Token, "a session": session.Token, "none": "", "made up": strings.Repeat("A", 43), "long": strings.Repeat("A", 100_000)} {
		if _, err := page.BeginSession(ctx, token); code(err) != api.CodeNoSession {
			t.Errorf("%s: begin: %v", name, err)
		}
		if _, err := page.WhoseLogin(ctx, token); code(err) != api.CodeNoSession {
			t.Errorf("%s: look: %v", name, err)
		}
	}
	late, err := f.as(caller(5)).Login(ctx)
	if err != nil {
		t.Fatal(err)
	}
	forward(5 * time.Minute)
	if _, err := page.BeginSession(ctx, late.Token); code(err) != api.CodeNoSession || !strings.Contains(err.Error(), "lighter web login") {
		t.Errorf("after its time: %v", err)
	}
	// A session can't make itself last longer, and who is not known gets none.
	if _, err := page.As(session.Token).Login(ctx); code(err) != api.CodeForbidden {
		t.Errorf("by a session: %v", err)
	}
	nobody, closeAll := f.serve(socketOf(t))
	defer closeAll()
	for name, err := range map[string]error{"login": second(nobody.Login(ctx)), "look": second(nobody.WhoseLogin(ctx, login.Token)), "begin": second(nobody.BeginSession(ctx, login.Token)), "end": second(nobody.EndSessions(ctx))} {
		if code(err) != api.CodeForbidden {
			t.Errorf("%s without credentials: %v", name, err)
		}
	}
}

// TestSessionEnds ends sessions in all ways in which they do.
func TestSessionEnds(t *testing.T) {
	f, page, forward := loginFarm(t)
	ctx := t.Context()
	alice, bob := f.as(caller(5)), f.as(caller(6))
	lives := func(name string, c *apiclient.Client, want bool) {
		t.Helper()
		_, err := c.Status(ctx)
		if (err == nil) != want || !want && (code(err) != api.CodeNoSession || !strings.Contains(err.Error(), "lighter web login")) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// By itself, if it is not used, or after all that time.
	unused, used := logIn(t, page, alice), logIn(t, page, alice)
	for range 11 {
		forward(time.Hour)
		lives("used", used, true)
	}
	lives("not used for long", unused, false)
	forward(time.Hour)
	lives("used for long", used, false)
	// By a logout of its own, which ends no other.
	one, two, bobs := logIn(t, page, alice), logIn(t, page, alice), logIn(t, page, bob)
	if n, err := one.EndSessions(ctx); err != nil || n.Sessions != 1 {
		t.Errorf("logout: %+v, %v", n, err)
	}
	lives("after its logout", one, false)
	lives("after another's logout", two, true)
	// By its person, who ends all, and unused logins too.
	login, err := alice.Login(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := alice.EndSessions(ctx); err != nil || *n != (api.EndedSessions{Sessions: 1, Logins: 1}) {
		t.Errorf("end of all: %+v, %v", n, err)
	}
	lives("after all are ended", two, false)
	lives("another person's", bobs, true)
	if _, err := page.BeginSession(ctx, login.Token); code(err) != api.CodeNoSession {
		t.Errorf("a login that was ended: %v", err)
	}
	// Somebody else can't use what he saw of it.
	if login, err = bob.Login(ctx); err != nil {
		t.Fatal(err)
	}
	seen, err := page.BeginSession(ctx, login.Token)
	if err != nil {
		t.Fatal(err)
	}
	lives("seen by alice", alice.As(seen.Token), false)
	lives("seen by root", f.as(caller(0)).As(seen.Token), false)
	lives("its holder's", page.As(seen.Token), true)
	// By another header than one of a session.
	for _, header := range []http.Header{
		{"Authorization": {"Basic cm9vdDo="}}, {"Authorization": {""}}, {"Authorization": {"Bearer"}}, {"Authorization": {"Bearer ", "Bearer x"}},
	} {
		if status := page.statusWith(ctx, header); status != http.StatusUnauthorized {
			t.Errorf("%v: got %d", header, status)
		}
	}
	// By the coordinator's end.
	f.shutDown()
	f.start()
	lives("after a restart", f.as(caller(99)).As(seen.Token), false)
}

// statusWith asks for the status with more headers, and returns the answer's code.
func (u *testUser) statusWith(ctx context.Context, header http.Header) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/v1/status", http.NoBody)
	if err != nil {
		return 0
	}
	req.Header = header
	resp, err := u.http.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
