package agent

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// twoOutputs returns a request to check a derivation with two outputs.
func twoOutputs(t *testing.T, attempt int, name, script string) *agentapi.BuildRequest {
	t.Helper()
	req := requestOf(t, attempt, name, &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "doc"}, {Name: "out"}}, Env: []derivation.EnvVar{{Name: "doc"}, {Name: "out"}},
		Builder: "builtin:fake", Args: strings.Fields(script), System: "x86_64-linux",
	})
	req.Check = true
	return req
}

// files returns the base names of the files of an agent's builds.
func files(t *testing.T, dir string) []string {
	t.Helper()
	names := []string{}
	found, err := os.ReadDir(filepath.Join(dir, "builds"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, f.Name())
	}
	return names
}

// hashOf reads what a check made, and returns its hash.
func (r *rig) hashOf(id, output string) store.Hash {
	r.t.Helper()
	body, err := r.client.Output(r.t.Context(), id, output)
	if err != nil {
		r.t.Fatal(err)
	}
	defer body.Close()
	var h nar.Hasher
	if _, err := io.Copy(&h, body); err != nil {
		r.t.Fatal(err)
	}
	return h.Sum()
}

func TestCheck(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	dir := t.TempDir()
	inDir := func(o *Options) { o.StateDir = dir }
	r := start(t, s, inDir)
	req := twoOutputs(t, 1, "pkg", "log=made")
	plain := *req
	plain.Check = false
	r.put("plain", &plain)
	_, built := r.follow("plain", 0)

	r.put("check", req)
	text, status := r.follow("check", 0)
	if text != "made\n" || status.State != agentapi.Succeeded || !status.Check || status.AlreadyValid || len(status.Outputs) != 2 {
		t.Fatalf("log %q, then %+v", text, status)
	}
	if s.count("pkg") != 2 {
		t.Errorf("built %d times", s.count("pkg"))
	}
	if status.Outputs["out"].NARHash == built.Outputs["out"].NARHash {
		t.Error("the check says what is valid, not what it made")
	}
	want := map[string]store.Hash{"doc": status.Outputs["doc"].NARHash, "out": status.Outputs["out"].NARHash}
	if diff := cmp.Diff(want, map[string]store.Hash{"doc": r.hashOf("check", "doc"), "out": r.hashOf("check", "out")}); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	_, err := r.client.Output(t.Context(), "check", "lib")
	wantCode(t, err, 404, "")
	_, err = r.client.Output(t.Context(), "plain", "out")
	wantCode(t, err, 404, "")
	_, err = r.client.Output(t.Context(), "absent", "out")
	wantCode(t, err, 404, agentapi.CodeUnknownBuild)

	r.stop()
	r = start(t, s, inDir)
	if got := r.hashOf("check", "out"); got != want["out"] {
		t.Error("after a restart the output is another one")
	}
	if again := r.put("check", req); again.State != agentapi.Succeeded || !again.Check || s.count("pkg") != 2 {
		t.Errorf("put again: %+v, built %d times", again, s.count("pkg"))
	}
	for _, id := range []string{"check", "plain"} {
		if err := r.client.DeleteBuild(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestCheckThatFails(t *testing.T) {
	s := newFakeStore(t)
	dir := t.TempDir()
	r := start(t, s, func(o *Options) { o.StateDir = dir })
	r.put("half", twoOutputs(t, 1, "half", "half"))
	_, status := r.follow("half", 0)
	if status.State != agentapi.Failed || status.Failure.Kind != string(store.FailedOutput) {
		t.Errorf("got %+v", status)
	}
	if left := files(t, dir); len(left) != 1 { // the record
		t.Errorf("left: %q", left)
	}
	_, err := r.client.Output(t.Context(), "half", "out")
	wantCode(t, err, 404, "")

	r.put("hold", twoOutputs(t, 1, "hold", "hold"))
	<-s.held
	_, err = r.client.Output(t.Context(), "hold", "out")
	wantCode(t, err, 409, "")
	// A later attempt takes the place of this one.
	r.put("hold", twoOutputs(t, 2, "hold", "hold"))
	<-s.held
	close(s.free)
	if _, status := r.follow("hold", 0); status.State != agentapi.Succeeded || status.Attempt != 2 {
		t.Errorf("got %+v", status)
	}
	if left := files(t, dir); len(left) != 4 { // two records, two outputs
		t.Errorf("left: %q", left)
	}
}

func TestCheckWhoseOutputIsLost(t *testing.T) {
	s := newFakeStore(t)
	dir := t.TempDir()
	inDir := func(o *Options) { o.StateDir = dir }
	r := start(t, s, inDir)
	for _, id := range []string{"a.log-1", "b.made-1-x"} { // whose files look like others
		r.put(id, twoOutputs(t, 3, "pkg", ""))
		r.follow(id, 0)
	}
	at, err := r.attempt("a.log-1")
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := os.Remove(at.madeName("doc")); err != nil {
		t.Fatal(err)
	}
	// Those of an attempt that a crash has cut off.
	if err := os.WriteFile(filepath.Join(dir, "builds", madePrefix("b.made-1-x", 2)+"00"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, s, inDir)
	lost, err := r.client.Build(t.Context(), &agentapi.Asked{ID: "a.log-1"})
	if err != nil || lost.State != agentapi.Failed || !strings.Contains(lost.Failure.Message, `output "doc" was made, and lost`) {
		t.Errorf("got %+v, %v", lost, err)
	}
	r.hashOf("b.made-1-x", "out")
	if left := files(t, dir); len(left) != 4 { // two records, and two outputs of the one that is whole
		t.Errorf("left: %q", left)
	}
}
