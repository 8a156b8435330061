package webtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/testkit"
	"lighter/internal/testkit/farm"
)

// Users of the head who have no account: alice may submit, and the page's server is nobody's.
var (
	alice  = &syscall.Credential{Uid: 54321, Gid: 54321, Groups: []uint32{54000}}
	server = &syscall.Credential{Uid: 54999, Gid: 54999, Groups: []uint32{54000}}
)

// steered is a farm whose page can be acted from.
type steered struct {
	*farm.Farm
	t      *testing.T
	client *apiclient.Client // root's
	url    string
}

func newSteered(t *testing.T) *steered {
	testkit.NeedRoot(t)
	testkit.NeedUserNamespaces(t)
	dir, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = os.MkdirTemp(dir, "s"); err == nil { //nolint:usetesting // others open it, and its sockets' names are short
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err := programIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &steered{t: t}
	if s.Farm, err = farm.New(t.Context(), dir, program); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	if err := os.WriteFile(filepath.Join(s.Config, "lighter.toml"), []byte("[access]\nsubmit-group = \"54000\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	machine := fmt.Sprintf("[[machine]]\nname = \"alpha\"\nlocal = true\nparallel-builds = 2\noverload-threshold = false\nstate-directory = %q\nsystems = [%q]\nsandbox-paths = [\"%s\"]\n",
		filepath.Join(s.Folder, "alpha"), farm.System(), strings.Join(farm.SandboxPaths(), `", "`))
	if err := s.Start(t.Context(), []byte(machine)); err != nil {
		t.Fatal(err)
	}
	s.client = apiclient.NewClient(s.Socket())
	t.Cleanup(s.client.Close)
	// It ends with the farm, not with the test's context.
	page := s.Lighter(context.WithoutCancel(t.Context()), "web", "--allow-steering", "--listen", "127.0.0.1:0", "--title", title)
	page.SysProcAttr = &syscall.SysProcAttr{Credential: server}
	text, err := s.LaunchUntil(page, "\n")
	if err != nil {
		t.Fatal(err)
	}
	s.url = strings.TrimSuffix(strings.TrimSpace(string(text)), "/")
	return s
}

// as runs a command of lighter as a user, and returns what it prints.
func (s *steered) as(user *syscall.Credential, args ...string) string {
	s.t.Helper()
	cmd := s.Lighter(s.t.Context(), args...)
	if user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	}
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		s.t.Fatalf("%v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

// person is somebody with a browser that has no script.
type person struct {
	*http.Client
	s *steered
}

// logIn follows the link of "lighter web login" as a user, and says yes.
func (s *steered) logIn(user *syscall.Credential) *person {
	s.t.Helper()
	link := s.as(user, "web", "login", "--url", s.url)
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &person{&http.Client{Jar: jar}, s}
	if code, page := p.get(strings.TrimPrefix(link, s.url)); code != http.StatusOK || !strings.Contains(page, `name="token"`) {
		s.t.Fatalf("the page of the link: %d %s", code, page)
	}
	_, token, _ := strings.Cut(link, "token=")
	if code, page := p.post("/login", url.Values{"token": {token}}); code != http.StatusOK || !strings.Contains(page, "You are logged in as ") {
		s.t.Fatalf("login: %d %s", code, page)
	}
	return p
}

func (p *person) get(path string) (int, string) { return p.do(http.MethodGet, path, nil) }

func (p *person) post(path string, form url.Values) (int, string) {
	return p.do(http.MethodPost, path, form)
}

func (p *person) do(method, path string, form url.Values) (int, string) {
	p.s.t.Helper()
	r, err := http.NewRequestWithContext(p.s.t.Context(), method, p.s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.s.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", p.s.url)
	}
	resp, err := p.Do(r)
	if err != nil {
		p.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		p.s.t.Fatal(err)
	}
	return resp.StatusCode, string(page)
}

// TestSteering has alice, who may submit, and root act from the page of a server that may do nothing itself.
func TestSteering(t *testing.T) {
	s := newSteered(t)
	ctx := t.Context()
	roots, alices := s.logIn(nil), s.logIn(alice)
	drv := func(name string) string {
		path, err := s.Add(ctx, farm.Recipe{Name: name, Script: "while true; do sleep 1; done"})
		if err != nil {
			t.Fatal(err)
		}
		return string(path)
	}
	submit := func(p *person, name string) *api.Build {
		t.Helper()
		path := drv(name)
		if code, page := p.post("/submit", url.Values{"derivation": {path}, "tags": {"set=x"}}); !strings.Contains(page, "The build was submitted.") {
			t.Fatalf("submit: %d %s", code, page)
		}
		list, err := s.client.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{Name: name}})
		if err != nil || len(list.Builds) != 1 {
			t.Fatalf("%v %v", list, err)
		}
		return &list.Builds[0]
	}
	hers, his := submit(alices, "hers-1"), submit(roots, "his-1")
	if hers.Submitter == nil || hers.Submitter.UID != alice.Uid || his.Submitter == nil || his.Submitter.UID != 0 {
		t.Fatalf("submitted by %v and %v", hers.Submitter, his.Submitter)
	}
	if code, page := alices.post("/steer/cancel", url.Values{"build": {his.ID}}); code != http.StatusForbidden || !strings.Contains(page, "only root") {
		t.Errorf("another's build: %d %s", code, page)
	}
	if code, page := alices.post("/steer/pause", nil); code != http.StatusForbidden {
		t.Errorf("a pause by alice: %d %s", code, page)
	}
	if code, page := alices.get("/steer/cancel?tag=set%3Dx"); code != http.StatusOK || !strings.Contains(page, "Cancel 1 build with the tag set=x?") || !strings.Contains(page, "1 build of others") {
		t.Errorf("the question: %d %s", code, page)
	}
	if code, page := alices.post("/steer/cancel", url.Values{"tag": {"set=x"}, "reason": {"wrong patch"}}); code != http.StatusOK || !strings.Contains(page, "1 build was canceled.") {
		t.Errorf("her own: %d %s", code, page)
	}
	if b, err := s.client.Build(ctx, hers.ID); err != nil || b.State != api.Canceled || b.Reason != "canceled by user 54321: wrong patch" {
		t.Errorf("her build is %+v, %v", b, err)
	}
	if b, err := s.client.Build(ctx, his.ID); err != nil || b.State.Final() {
		t.Errorf("his build is %+v, %v", b, err)
	}
	if code, page := roots.post("/steer/drain", url.Values{"machine": {"alpha"}, "reason": {"new disk"}}); code != http.StatusOK || !strings.Contains(page, "by root; new disk") {
		t.Errorf("drain: %d %s", code, page)
	}
	// The link is good once; the sessions end by a word, and with the coordinator.
	if got := s.as(alice, "web", "login", "--end-all"); got != "ended 1 session, and 0 links that nobody had used" {
		t.Errorf("end of all: %q", got)
	}
	if code, page := alices.post("/steer/retry", url.Values{"build": {hers.ID}}); code != http.StatusUnauthorized || !strings.Contains(page, "lighter web login") {
		t.Errorf("after the end: %d %s", code, page)
	}
	if err := s.Coordinator().Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Coordinator().Wait(); err != nil {
		t.Log(err)
	}
	if err := s.StartCoordinator(ctx); err != nil {
		t.Fatal(err)
	}
	if code, page := roots.post("/steer/pause", nil); code != http.StatusUnauthorized {
		t.Errorf("after a restart: %d %s", code, page)
	}
}

// TestSteeringInBrowser logs in and cancels with the mouse, with scripts and without, and looks at the pages.
func TestSteeringInBrowser(t *testing.T) {
	needBrowser(t)
	s := newSteered(t)
	path, err := s.Add(t.Context(), farm.Recipe{Name: "long-1.0", Script: "while true; do sleep 1; done"})
	if err != nil {
		t.Fatal(err)
	}
	build, err := s.client.Submit(t.Context(), api.Request{Derivation: path, Tags: map[string]string{"set": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, scripts := range []bool{true, false} {
		b := newTab(t, s.url)
		if !scripts {
			b.scriptsOff()
		}
		pictures := 0
		look := func(name string) {
			if !scripts {
				return
			}
			b.headings()
			for _, f := range b.accessibility(needAxe(t)) {
				t.Errorf("%s: %s", name, f)
			}
			for _, scheme := range []string{light, dark} {
				for _, width := range []int64{wide, narrow} {
					b.look(width, scheme)
					if over := value[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
						t.Errorf("%s: %d pixels too wide at %d", name, over, width)
					}
					if *shots != "" {
						b.picture(filepath.Join(*shots, fmt.Sprintf("steer-%d-%s-%s-%d.png", pictures, name, scheme, width)))
					}
				}
			}
			b.look(wide, light)
			pictures++
		}
		b.open(strings.TrimPrefix(s.as(nil, "web", "login", "--url", s.url), s.url))
		look("login")
		b.follow("main button")
		if !strings.Contains(b.text(), "You are logged in as root.") {
			t.Fatalf("after the login: %s", b.text())
		}
		look("index")
		b.open("/machine/alpha")
		look("machine")
		b.follow("main .acts a")
		look("drain")
		b.open("/submit")
		look("submit")
		b.open("/tag/set=x")
		look("tag")
		b.follow("main .acts a")
		if !strings.Contains(b.text(), "Cancel 1 build with the tag set=x?") {
			t.Fatalf("the question: %s", b.text())
		}
		look("question")
		b.follow("main button")
		if !strings.Contains(b.text(), "1 build was canceled.") {
			t.Fatalf("after the action: %s", b.text())
		}
		look("done")
		if scripts {
			if done, err := s.client.Retry(t.Context(), &api.Selection{IDs: []string{build.ID}}); err != nil || done.Count != 1 {
				t.Fatalf("%+v, %v", done, err)
			}
		}
		if scripts {
			s.attack(b)
		}
		b.open("/")
		b.follow("header .who button")
		if !strings.Contains(b.text(), "Log in") || strings.Contains(b.text(), "root") {
			t.Errorf("after the logout: %s", b.text())
		}
	}
}

// attack has a page on another port of the same host, which cookies don't tell apart, use the session of a browser.
func (s *steered) attack(b *tab) {
	s.t.Helper()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.URL.Path == "/frame" {
			fmt.Fprintf(w, `<!DOCTYPE html><title>a frame</title><link rel="icon" href="data:,"><iframe src="%s/steer/pause"></iframe>`, s.url)
			return
		}
		fmt.Fprintf(w, `<!DOCTYPE html><title>a form</title><link rel="icon" href="data:,"><form method="post" action="%s/steer/pause"></form><script>document.forms[0].submit()</script>`, s.url)
	}))
	defer evil.Close()
	open := func(path string) {
		b.call(func(ctx context.Context) error {
			_, err := chromedp.Run(ctx, chromedp.NavigateResponse(evil.URL+path))
			return err
		})
	}
	open("/")
	b.await(`document.body.innerText.includes("another site's page asks for that: nothing was done")`)
	open("/frame")
	b.await(`document.querySelector("iframe") !== null`)
	if status, err := s.client.Status(s.t.Context()); err != nil || status.Paused != "" {
		s.t.Errorf("another page has paused the farm: %+v, %v", status, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if said := strings.Join(b.wrong, " "); !strings.Contains(said, "frame-ancestors 'none'") {
		s.t.Errorf("the page is shown in another's frame; the browser says %q", said)
	}
	b.wrong = nil
}
