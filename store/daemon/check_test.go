package daemon

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// closer is a buffer that says whether it was closed.
type closer struct {
	bytes.Buffer
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

// checkSteps returns the exchanges of a check of the recorded derivation, whose output is
// valid, up to the answer of the daemon.
func checkSteps(keep bool, answer []byte) (req *store.BuildRequest, out string, steps []step) {
	req, built := buildSteps("build-local-ok")
	req.Check, req.KeepFailed = true, keep
	out, _ = between(string(req.Text), `("out","`, `"`)
	steps = built[:4:4]
	steps = append(steps, step{enc(opQueryValidPaths, []string{out}), enc(replyLast, []string{out})})
	if keep {
		steps = append(steps, step{enc(opAddTempRoot, out+"-check"), enc(replyLast, 1)})
	}
	return req, out, append(steps,
		step{append(enc(opSetOptions), options(req)...), enc(replyLast)},
		step{enc(opBuildThings, []string{string(req.Derivation)}, 2), answer},
	)
}

// madeBy has a build's outputs written to a buffer for each.
func madeBy(req *store.BuildRequest) map[string]*closer {
	made := make(map[string]*closer)
	req.Made = func(output string) (io.WriteCloser, error) {
		made[output] = new(closer)
		return made[output], nil
	}
	return made
}

// item writes a file, and returns its NAR.
func item(t *testing.T, name, content string) []byte {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o444); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Pack(&b, name); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const differs = "derivation `%s' may not be deterministic: output `%s' differs"

func TestCheckEqual(t *testing.T) {
	testkit.CheckLeaks(t)
	req, out, steps := checkSteps(false, enc(replyLast, 1))
	steps = append(steps, step{enc(opQueryPathInfo, out), enc(replyLast, string(req.Derivation), zeroDigits, []string{}, 1, 120)})
	made := madeBy(req)
	f := startFake(t, play(t, steps...))
	physical := t.TempDir()
	want := item(t, filepath.Join(physical, filepath.Base(out)), "made")
	s := f.open(func(o *Options) { o.PhysicalDir = physical })
	result, err := s.Build(soon(t), req)
	if err != nil || result.Outputs["out"].NARSize != 120 || result.AlreadyValid {
		t.Fatalf("got %+v, %v", result, err)
	}
	if m := made["out"]; m == nil || !m.closed || !bytes.Equal(m.Bytes(), want) {
		t.Errorf("handed over: %+v", made)
	}
}

func TestCheckDiffers(t *testing.T) {
	testkit.CheckLeaks(t)
	req, out, _ := checkSteps(false, nil)
	message := strings.Replace(strings.Replace(differs, "%s", string(req.Derivation), 1), "%s", out, 1)
	req, _, steps := checkSteps(false, enc(replyError, message, 1))
	_, err := startFake(t, play(t, steps...)).open().Build(soon(t), req)
	var failed *store.BuildError
	if !errors.As(err, &failed) || failed.Failure != store.FailedDifference || !strings.Contains(failed.Message, "may not be deterministic") {
		t.Errorf("what differs was not kept: got %v", err)
	}

	req, _, steps = checkSteps(true, enc(replyError, message+" from `"+out+"-check'", 1))
	steps = append(steps, step{enc(opQueryPathInfo, out), enc(replyLast, string(req.Derivation), zeroDigits, []string{}, 1, 120)})
	made := madeBy(req)
	physical := t.TempDir()
	item(t, filepath.Join(physical, filepath.Base(out)), "made")
	want := item(t, filepath.Join(physical, filepath.Base(out))+"-check", "made otherwise")
	f := startFake(t, play(t, steps...))
	result, err := f.open(func(o *Options) { o.PhysicalDir = physical }).Build(soon(t), req)
	if err != nil {
		t.Fatal(err)
	}
	var h nar.Hasher
	_, _ = h.Write(want)
	if got := result.Outputs["out"]; got.NARHash != h.Sum() || got.NARSize != h.Size() || string(got.Path) != out {
		t.Errorf("got %+v", got)
	}
	if m := made["out"]; m == nil || !m.closed || !bytes.Equal(m.Bytes(), want) {
		t.Errorf("handed over: %+v", made)
	}
}

// TestCheckOfWhatIsNotValid builds as usual, and that is all.
func TestCheckOfWhatIsNotValid(t *testing.T) {
	testkit.CheckLeaks(t)
	req, steps := buildSteps("build-local-ok")
	req.Check = true
	result, err := startFake(t, play(t, steps...)).open().Build(soon(t), req)
	if err != nil || result.Outputs["out"].NARSize != 120 || result.AlreadyValid {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestCheckThatFails(t *testing.T) {
	testkit.CheckLeaks(t)
	req, _, steps := checkSteps(true, enc(replyError, "build of `x' failed", 100))
	_, err := startFake(t, play(t, steps...)).open().Build(soon(t), req)
	var failed *store.BuildError
	if !errors.As(err, &failed) || failed.Failure != store.FailedExit {
		t.Errorf("got %v", err)
	}
	// Its words are right, and what it names is not there.
	req, out, _ := checkSteps(true, nil)
	message := strings.Replace(strings.Replace(differs, "%s", string(req.Derivation), 1), "%s", out, 1) + " from `" + out + "-check'"
	req, _, steps = checkSteps(true, enc(replyError, message, 1))
	steps = append(steps, step{enc(opQueryPathInfo, out), enc(replyLast, string(req.Derivation), zeroDigits, []string{}, 1, 120)})
	s := startFake(t, play(t, steps...)).open(func(o *Options) { o.PhysicalDir = t.TempDir() })
	if _, err := s.Build(soon(t), req); !errors.Is(err, os.ErrNotExist) || errors.As(err, &failed) && failed.Failure == store.FailedDifference {
		t.Errorf("got %v", err)
	}
}

// TestCompareDropsLaterOutputs has a derivation of three outputs, of which the second one
// differs.
func TestCompareDropsLaterOutputs(t *testing.T) {
	physical := t.TempDir()
	s := &Store{dir: store.DefaultDir, physical: physical}
	b := &build{store: s, req: &store.BuildRequest{KeepFailed: true}}
	outputs := make(map[string]*store.Info)
	b.drv = threeOutputs(t)
	for _, o := range b.drv.Outputs {
		outputs[o.Name] = &store.Info{Path: o.Path, NARSize: 1}
	}
	doc := outputs["doc"].Path
	item(t, filepath.Join(physical, doc.Base())+"-check", "other")
	err := &Error{Message: "derivation `x' may not be deterministic: output `" + string(doc) + "' differs from `" + string(doc) + "-check'"}
	if got := b.compare(outputs, err); got != nil {
		t.Fatal(got)
	}
	if len(outputs) != 2 || outputs["bin"].NARSize != 1 || outputs["doc"].NARSize <= 1 || outputs["out"] != nil {
		t.Errorf("got %+v", outputs)
	}
}

func threeOutputs(t *testing.T) *derivation.Derivation {
	t.Helper()
	drv := new(derivation.Derivation)
	for _, name := range []string{"bin", "doc", "out"} {
		path, err := store.DefaultDir.ParsePath(string(store.DefaultDir) + "/" + strings.Repeat("0", 32) + "-x-" + name)
		if err != nil {
			t.Fatal(err)
		}
		drv.Outputs = append(drv.Outputs, derivation.Output{Name: name, Path: path})
	}
	return drv
}
