package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/testkit"
)

// socket has an agent serve on a socket, where connections introduce themselves.
func (r *rig) socket() string {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "s")
	l, err := net.Listen("unix", name)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- r.Serve(ctx, l) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			r.t.Error(err)
		}
	})
	return name
}

// as returns a client whose connections begin with a text.
func (r *rig) as(socket string, intro []byte) *agentapi.Client {
	client := agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil && len(intro) > 0 {
			_, err = conn.Write(intro)
		}
		return conn, err
	})
	r.t.Cleanup(client.Close)
	return client
}

func (r *rig) head(socket, name string, offer *agentapi.Offer) *agentapi.Client {
	r.t.Helper()
	h := Head{Name: name, Offer: offer}
	intro, err := h.Introduction()
	if err != nil {
		r.t.Fatal(err)
	}
	return r.as(socket, intro)
}

// TestHeadsApart shows that heads neither see nor touch each other's builds, also where
// they use the same ids, and also after the agent was started again.
func TestHeadsApart(t *testing.T) {
	testkit.CheckLeaks(t)
	s, state := newFakeStore(t), t.TempDir()
	r := start(t, s, func(o *Options) { o.StateDir = state })
	socket := r.socket()
	offer := &agentapi.Offer{CollectGarbage: true}
	heads := map[string]*agentapi.Client{
		"": r.as(socket, nil), "alice": r.head(socket, "alice", offer), "bob": r.head(socket, "bob", offer), "al": r.head(socket, "al", offer),
	}
	const id = "b1"
	ids := make(map[string]string)
	for name, client := range heads {
		info, err := client.Machine(t.Context())
		again, err2 := client.Machine(t.Context())
		if err := errors.Join(err, err2); err != nil || len(info.ID) != 32 || info.ID != again.ID || ids[info.ID] != "" {
			t.Errorf("%q knows the agent as %q and %q, %v; so does %q", name, info.ID, again.ID, err, ids[info.ID])
		}
		ids[info.ID] = "head " + name
		req := request(t, 1, "of-"+name+"x", "log="+name)
		if status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req); err != nil || status.ID != id || status.Derivation != req.Derivation {
			t.Fatalf("%q puts: %+v, %v", name, status, err)
		}
		var log strings.Builder
		if status, err := client.Log(t.Context(), &agentapi.Asked{ID: id}, 0, &log); err != nil || log.String() != name+"\n" || status.ID != id {
			t.Errorf("%q reads the log %q, %+v, %v", name, log.String(), status, err)
		}
	}
	seen := func(client *agentapi.Client) []string {
		list, err := client.Builds(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, status := range list {
			ids = append(ids, status.ID+" "+string(status.Derivation)[44:])
		}
		return ids
	}
	for name, client := range heads {
		if got, want := seen(client), []string{id + " of-" + name + "x.drv"}; !slices.Equal(got, want) {
			t.Errorf("%q sees %q, want %q", name, got, want)
		}
	}
	// What would be another's id, if marks and names were joined carelessly.
	for _, other := range []string{"bob~b1", "bob%7Eb1", "../bob~b1", "~b1", "b1.log-1"} {
		if _, err := heads["al"].Build(t.Context(), &agentapi.Asked{ID: other}); err == nil {
			t.Errorf("build %q is there for al", other)
		}
		if err := heads["al"].DeleteBuild(t.Context(), other); err == nil {
			t.Errorf("al has deleted %q", other)
		}
	}
	if err := heads["alice"].DeleteBuild(t.Context(), id); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "bob", "al"} {
		if len(seen(heads[name])) != 1 {
			t.Errorf("%q has lost its build to alice", name)
		}
	}
	r.stop()
	again := start(t, s, func(o *Options) { o.StateDir = state })
	socket = again.socket()
	for name, want := range map[string]int{"": 1, "alice": 0, "bob": 1, "al": 1} {
		client := again.as(socket, nil)
		if name != "" {
			client = again.head(socket, name, offer)
		}
		if got := seen(client); len(got) != want {
			t.Errorf("after a restart %q sees %q, want %d", name, got, want)
		}
	}
}

// TestOffer shows that a head gets nothing of the machine but what its owner offers.
func TestOffer(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	r := start(t, s)
	socket := r.socket()
	offer := &agentapi.Offer{SandboxPaths: []string{"/bin/sh=/opt/sh"}, SubstituteURLs: []string{"https://good"}, MaxCores: 2, MaxTime: 60, MaxSilentTime: 5}
	client := r.head(socket, "h", offer)
	if m, err := client.Machine(t.Context()); err != nil || !cmp.Equal(m.Offer, offer) {
		t.Errorf("machine: %+v, %v", m, err)
	}
	if m, err := r.as(socket, nil).Machine(t.Context()); err != nil || m.Offer != nil {
		t.Errorf("machine for the account: %+v, %v", m, err)
	}
	req := request(t, 1, "x", "")
	for _, path := range []string{"/secret=/root", "/bin/sh=/etc/shadow", "/bin", "/", "", "/bin/sh=/opt/sh/../../etc"} {
		req.SandboxPaths = []string{"/bin/sh", path}
		_, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, req)
		wantCode(t, err, 403, agentapi.CodeNotOffered)
	}
	if s.count("x") != 0 {
		t.Fatal("it was built")
	}
	_, err := client.CollectGarbage(t.Context(), &agentapi.GCRequest{})
	wantCode(t, err, 403, agentapi.CodeNotOffered)

	req.SandboxPaths = []string{"/bin/sh"}
	req.SubstituteURLs = []string{"file:///root", "http://169.254.169.254", "https://good/"}
	req.Cores, req.Timeout, req.MaxSilentTime, req.KeepFailed = 64, 0, 3, true
	if _, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, req); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Log(t.Context(), &agentapi.Asked{ID: "b"}, 0, io.Discard); err != nil {
		t.Fatal(err)
	}
	got := s.requests[0]
	if !slices.Equal(got.SandboxPaths, offer.SandboxPaths) || got.Cores != 2 || got.Timeout.Seconds() != 60 || got.MaxSilentTime.Seconds() != 3 || got.KeepFailed {
		t.Errorf("the store is asked for %+v", got)
	}
	// The account itself asks for what it likes.
	req.SandboxPaths, req.Cores, req.Timeout, req.Attempt = []string{"/secret=/root"}, 64, 0, 2
	req.Check = true
	if _, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "mine"}, req); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "mine"}, 0, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := s.requests[1]; !slices.Equal(got.SandboxPaths, req.SandboxPaths) || got.Cores != 64 || !got.KeepFailed {
		t.Errorf("the store is asked for %+v", got)
	}
}

// TestLimitServers shows which substitute servers are left of a request.
func TestLimitServers(t *testing.T) {
	h := &Head{Offer: &agentapi.Offer{SubstituteURLs: []string{"https://good", "file:///srv/s/"}}}
	req := &agentapi.BuildRequest{SubstituteURLs: []string{"https://good.evil", "https://good", "file:///srv/s", "file:///srv", "https://good/x", "https://good//"}}
	if err := h.limit(req); err != nil {
		t.Fatal(err)
	}
	if want := []string{"https://good", "file:///srv/s", "https://good//"}; !slices.Equal(req.SubstituteURLs, want) {
		t.Errorf("got %q, want %q", req.SubstituteURLs, want)
	}
}

// TestIntroduction shows what comes of first lines, whole and in pieces.
func TestIntroduction(t *testing.T) {
	good := Head{Name: "alice", Offer: &agentapi.Offer{SandboxPaths: []string{"/x"}}}
	intro, err := good.Introduction()
	if err != nil {
		t.Fatal(err)
	}
	const rest = "GET / HTTP/1.1\r\n\r\n"
	for name, tt := range map[string]struct {
		text, head string
		bad        bool
	}{
		"a head":          {string(intro) + rest, "alice", false},
		"the account":     {rest, "", false},
		"a second one":    {string(intro) + string(intro) + rest, "alice", false},
		"no offer":        {introMagic + "{}\n" + rest, "", true},
		"null offer":      {introMagic + `{"name":"x","offer":null}` + "\n" + rest, "", true},
		"bad name":        {introMagic + `{"name":"a~b","offer":{}}` + "\n" + rest, "", true},
		"another version": {"lighter-head/2 {}\n" + rest, "", true},
		"small letter":    {"lget / HTTP/1.1\r\n\r\n", "", true},
		"cut":             {string(intro[:20]), "", true},
		"endless":         {introMagic + strings.Repeat("x", 2*maxIntro), "", true},
		"empty":           {"", "", true},
	} {
		for _, slow := range []bool{false, true} {
			c := &headConn{Conn: readConn{Reader: strings.NewReader(tt.text)}}
			if slow {
				c.Conn = readConn{Reader: iotest.OneByteReader(strings.NewReader(tt.text))}
			}
			read, err := io.ReadAll(c)
			head := ""
			if c.head != nil {
				head = c.head.Name
			}
			if tt.bad && (len(read) > 0 || head != "") || !tt.bad && (err != nil || head != tt.head || !strings.HasSuffix(string(read), rest)) {
				t.Errorf("%s: head %q, read %.40q, %v", name, head, read, err)
			}
		}
	}
	for _, name := range []string{"a b", "a~b", "a/b", "ä", strings.Repeat("x", 65), "a\n"} {
		if _, err := (&Head{Name: name}).Introduction(); err == nil {
			t.Errorf("a head can be called %q", name)
		}
	}
}

// readConn is a connection of which only reading is used.
type readConn struct {
	io.Reader
	net.Conn
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func TestValidKey(t *testing.T) {
	for key, want := range map[string]bool{
		"b1": true, "alice~b1": true, "~b1": false, "a~": false, "a~b~c": false, "a.b~c": false, "a~.b": false, "": false,
	} {
		if got := validKey(key); got != want {
			t.Errorf("%q: %v", key, got)
		}
	}
}
