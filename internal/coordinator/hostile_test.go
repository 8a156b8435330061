package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/store"
)

// A hostile machine is one of two that a real coordinator with a real ledger has. It gets
// builds first, and answers with whatever a test makes of a true answer. The other one is
// honest. Whatever the first one says, the coordinator must live, be able to start again with
// the same ledger, and have builds done by the other; memory and ledger stay small.
type hostile struct {
	*farm
	n    int    // of builds
	heap uint64 // bytes, at the start
	disk int64  // of the ledger, then
}

const (
	evil   = "evil"
	honest = "honest"
)

func newHostile(t *testing.T, change ...func(*Config)) *hostile {
	f := unstarted(t, evil, honest)
	overHTTP(f)(&f.config)
	f.config.Limits.AnswerTimeout = 2 * time.Second
	f.config.Limits.QuarantineAfter = -1
	f.config.Logger = nil // thousands of warnings
	f.config.Machines[0].Speed, f.config.Machines[0].ParallelBuilds = 100, maxLies
	for _, change := range change {
		change(&f.config)
	}
	f.start()
	t.Cleanup(func() { f.shutDown() })
	h := &hostile{farm: f}
	h.good()
	h.heap, h.disk = heapInUse(), h.ledgerSize()
	return h
}

// twist has the hostile machine say something else.
func (h *hostile) twist(twist func(what string, text []byte) []byte) {
	h.agents[evil].set(func(a *fakeAgent) { a.twist = twist })
}

// name returns a name for another derivation.
func (h *hostile) name() string {
	h.n++
	return fmt.Sprintf("build-%d", h.n)
}

// good has the honest machine build something.
func (h *hostile) good() {
	h.t.Helper()
	drv := h.drv(h.name(), "")
	h.awaitState(h.request(api.Request{Derivation: drv, On: []string{honest}})[0], api.Succeeded)
	if !h.valid(h.output(drv)) {
		h.t.Errorf("the output of %s is not at home", drv)
	}
}

// lie is a build that the hostile machine gets first, and what it says of it to one request,
// or in a trailer, instead of the truth.
type lie struct {
	what, script, name string
	twist              func([]byte) []byte
	drv                store.Path
}

// maxLies is how many builds the hostile machine has at the same time.
const maxLies = 32

// tell has builds made of which the hostile machine tells lies, and returns what became of
// them. All is forgotten that was held against it before.
func (h *hostile) tell(lies []*lie) (builds []*api.Build) {
	h.t.Helper()
	for lies := range slices.Chunk(lies, maxLies) {
		h.forgive()
		var drvs []store.Path
		byName := make(map[string]*lie)
		for _, l := range lies {
			name := h.name()
			l.drv = h.drv(name, l.script)
			drvs, byName[name] = append(drvs, l.drv), l
		}
		h.twist(func(what string, text []byte) []byte {
			if l := byName[string(buildName.Find(text))]; l != nil && what == l.what {
				return l.twist(text)
			}
			return text
		})
		for i, id := range h.submit(drvs...) {
			b := h.awaitFinal(id)
			builds = append(builds, b)
			h.wantKnown(b, lies[i].name)
		}
		h.twist(nil)
	}
	return builds
}

// try is tell for one build, whatever the request is about.
func (h *hostile) try(script string, twist func(what string, text []byte) []byte) *api.Build {
	h.t.Helper()
	h.forgive()
	h.twist(twist)
	b := h.awaitFinal(h.submit(h.drv(h.name(), script))[0])
	h.twist(nil)
	return b
}

// buildName finds the name of what a text is about.
var buildName = regexp.MustCompile("build-[0-9]+")

// forgive waits until the hostile machine gets builds again.
func (h *hostile) forgive() {
	h.t.Helper()
	m := h.machine(evil)
	h.until("the hostile machine is up", func() bool {
		up := false
		if err := h.c.do(h.t.Context(), func(l *loop) {
			m.conduct = conduct.Record{}
			if up = m.unavailable() == ""; !up {
				m.peer.Wake()
			}
		}); err != nil {
			h.t.Fatalf("the coordinator has ended: %v, %v", err, <-h.over)
		}
		return up
	})
}

// look has the coordinator look at the hostile machine, and waits for what comes of it: when
// it looks once more, that is with the loop.
func (h *hostile) look() {
	h.t.Helper()
	m, a := h.machine(evil), h.agents[evil]
	looks := func() (n int) {
		a.set(func(a *fakeAgent) { n = a.answers["GET /v1/machine"] })
		return n
	}
	before := looks()
	h.until("somebody looked at the hostile machine", func() bool {
		m.peer.Wake()
		return looks() >= before+2
	})
	if err := h.c.do(h.t.Context(), func(l *loop) {}); err != nil {
		h.t.Fatalf("the coordinator has ended: %v, %v", err, <-h.over)
	}
}

// down cuts the hostile machine off until it is up again.
func (h *hostile) down() {
	h.t.Helper()
	m := h.machine(evil)
	h.agents[evil].cutLink(true)
	h.until("the hostile machine is down", func() bool {
		m.peer.Wake()
		down := false
		if err := h.c.do(h.t.Context(), func(l *loop) { down = m.state == api.MachineDown }); err != nil {
			h.t.Fatalf("the coordinator has ended: %v, %v", err, <-h.over)
		}
		return down
	})
}

// survives starts the coordinator again, as after a crash, and checks that all is well.
func (h *hostile) survives() {
	h.t.Helper()
	h.twist(nil)
	h.crash()
	h.start()
	h.good()
	const maxHeap, maxLedger = 64 << 20, 64 << 20
	if now := heapInUse(); now > h.heap+maxHeap {
		h.t.Errorf("the heap grew from %d to %d bytes", h.heap, now)
	}
	if now := h.ledgerSize(); now > h.disk+maxLedger {
		h.t.Errorf("the ledger grew from %d to %d bytes", h.disk, now)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (h *hostile) ledgerSize() (sum int64) {
	dir := filepath.Join(h.dir, "ledger")
	names, err := h.fs.List(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, name := range names {
		if info, err := h.fs.Stat(filepath.Join(dir, name)); err == nil { // files come and go
			sum += info.Size()
		}
	}
	return sum
}

// hostileValues are what fields are given, as JSON; the empty one takes the field away.
func hostileValues() []string {
	quoted := func(s string) string {
		text, _ := json.Marshal(s)
		return string(text)
	}
	return []string{
		"", "null", "true", "0", "-1", "1.5", "2147483647", "2147483648", "9223372036854775807", "-9223372036854775808", "1e308", "-1e308",
		`""`, `"x"`, quoted(strings.Repeat("x", 1<<17)), quoted("\x1b[31m\r\nvery\u202ebad\x00"), quoted("11111111-2222-4333-8444-555555555555"),
		quoted("/gnu/store/00000000000000000000000000000000-other"), quoted("/etc/passwd"), quoted("sha256:" + strings.Repeat("0", 64)),
		quoted("0001-01-01T00:00:00Z"), quoted("2200-01-01T00:00:00Z"), quoted("9999-12-31T23:59:59Z"),
		quoted(agentapi.Rooted), quoted(agentapi.Running), quoted(agentapi.Succeeded), quoted(agentapi.Failed), quoted(agentapi.Canceled),
		quoted("derivation"), quoted("machine"), quoted("coordinator"), quoted(api.KindDependency),
		"[]", "[null]", `[""]`, "[" + strings.Repeat("{},", 5000) + "{}]", "{}", `{"x":null}`, `{"out":null}`, `{"x":{}}`,
		strings.Repeat("[", 5000) + strings.Repeat("]", 5000), strings.Repeat(`{"out":`, 5000) + "1" + strings.Repeat("}", 5000),
	}
}

// fieldsOf returns the names of all fields of a type as JSON has them, and of what they have
// in turn: "failure.message". "*" stands for each element of a list or a map.
func fieldsOf(t reflect.Type) (names []string) {
	below := func(prefix string, t reflect.Type) {
		for _, name := range fieldsOf(t) {
			names = append(names, strings.TrimSuffix(prefix+"."+name, "."))
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return fieldsOf(t.Elem())
	case reflect.Map, reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return nil
		}
		names = append(names, "*")
		below("*", t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			names = append(names, name)
			below(name, t.Field(i).Type)
		}
	}
	return names
}

// fieldLie is a value that a field of an answer gets.
type fieldLie struct{ field, value string }

func (l fieldLie) twist(text []byte) []byte { return with(text, l.field, l.value) }

// of is the lie in an answer about a build.
func (l fieldLie) of(what, script string) *lie {
	return &lie{what: what, script: script, name: what + " " + l.field + " " + api.Cut(l.value, 60), twist: l.twist}
}

// fieldLies returns hostile values for all fields of answers like a true one, and for more fields.
// A value with which no answer is a T, whatever the field, is returned for one field in eight.
func fieldLies[T any](t *testing.T, answer T, more ...string) (lies []fieldLie) {
	t.Helper()
	text, err := json.Marshal(answer)
	if err == nil {
		err = json.Unmarshal(text, new(T))
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, field := range append(fieldsOf(reflect.TypeFor[T]()), more...) {
		for j, value := range hostileValues() {
			if (i+j)%8 == 0 || json.Unmarshal(with(text, field, value), new(T)) == nil {
				lies = append(lies, fieldLie{field, value})
			}
		}
	}
	return lies
}

// with returns a JSON text in which a field has another value.
func with(text []byte, field, value string) []byte {
	var v any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&v) != nil {
		return text
	}
	changed, err := json.Marshal(replaced(v, strings.Split(field, "."), value))
	if err != nil {
		panic(err) // the values are JSON
	}
	return changed
}

func replaced(v any, field []string, value string) any {
	if len(field) == 0 {
		return json.RawMessage(value)
	}
	name, rest := field[0], field[1:]
	switch v := v.(type) {
	case []any:
		if name != "*" {
			return v
		}
		for i := range v {
			v[i] = replaced(v[i], rest, cmpOr(value, "null"))
		}
		return v
	case map[string]any:
		names := []string{name}
		if name == "*" {
			names = names[:0]
			for name := range v {
				names = append(names, name)
			}
		}
		for _, name := range names {
			if len(rest) == 0 && value == "" {
				delete(v, name)
			} else {
				v[name] = replaced(v[name], rest, value)
			}
		}
		return v
	case nil:
		if name == "*" {
			return replaced([]any{nil}, field, value)
		}
		return replaced(map[string]any{}, field, value)
	}
	return v
}

func cmpOr(value, other string) string {
	if value == "" {
		return other
	}
	return value
}

// only twists the answer to one request alone.
func only(what string, twist func([]byte) []byte) func(string, []byte) []byte {
	return func(of string, text []byte) []byte {
		if of != what {
			return text
		}
		return twist(text)
	}
}

// bodies are what may be wrong with an answer as a whole.
var bodies = map[string]func(text []byte) []byte{
	"empty":        func([]byte) []byte { return []byte{} },
	"null":         func([]byte) []byte { return []byte("null") },
	"list":         func(text []byte) []byte { return slices.Concat([]byte("["), text, []byte("]")) },
	"no JSON":      func([]byte) []byte { return []byte("<h1>Hello</h1>") },
	"tail":         func(text []byte) []byte { return append(text, " garbage"...) },
	"twice":        func(text []byte) []byte { return slices.Concat(text, text) },
	"cut":          func(text []byte) []byte { return text[:len(text)/2] },
	"unknown":      func(text []byte) []byte { return extended(text, `"unknown":{"x":[1,2]}`) },
	"control":      func(text []byte) []byte { return append([]byte("\x1b[31m\x00"), text...) },
	"many objects": func([]byte) []byte { return []byte("[" + strings.Repeat("{},", 1<<20) + "{}]") },
	"long":         func([]byte) []byte { return []byte(`"` + strings.Repeat("x", 4<<20) + `"`) },
	"blanks":       func([]byte) []byte { return bytes.Repeat([]byte(" "), 4<<20) },
}

// extended puts another field behind those of an object.
func extended(text []byte, field string) []byte {
	return slices.Concat(bytes.TrimSuffix(text, []byte("}")), []byte(","+field+"}"))
}

// TestHostileStatus sweeps what an agent says of a build: each field, with each value, in the
// answer to PUT and at the end of the log; of builds that succeed and that fail.
func TestHostileStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t)
		status := agentapi.BuildStatus{
			Derivation: h.drv("true", ""), Outputs: map[string]*store.Info{"out": {Path: h.output(h.drv("true", "")), NARHash: [32]byte{1}}},
			Failure: &api.Failure{Message: "exit 1"},
		}
		fields := fieldLies(t, status, "outputs.x", "outputs.x.path")
		for _, what := range []string{"PUT /v1/builds/{id}", "trailer"} {
			var lies []*lie
			for _, l := range fields {
				if what == "trailer" && len(l.value) > agentapi.MaxTrailer {
					continue // net/http takes no such trailer
				}
				script := "log=x"
				if strings.HasPrefix(l.field, "failure") {
					script = "fail=evil log=x"
				}
				lies = append(lies, l.of(what, script))
			}
			for name, twist := range bodies {
				if what == "trailer" && (name == "many objects" || name == "long" || name == "blanks") {
					continue
				}
				lies = append(lies, &lie{what: what, script: "log=x", name: what + " " + name, twist: twist})
			}
			h.tell(lies)
			h.survives()
		}
	})
}

// wantKnown checks what the ledger says of a build that a hostile machine had.
func (h *hostile) wantKnown(b *api.Build, what string) {
	h.t.Helper()
	outputs, _ := json.Marshal(b.OutputPaths)
	text, _ := json.Marshal(b)
	switch {
	case b.State != api.Succeeded && (b.Failure == nil || b.Failure.Culprit != api.CulpritDerivation):
		h.t.Errorf("%s: the build is %s: %+v", what, b.State, b.Failure)
	case b.State == api.Succeeded && (len(b.OutputPaths) != 1 || b.OutputPaths["out"] != h.output(b.Derivation)):
		h.t.Errorf("%s: the outputs are %s", what, outputs)
	case b.Attempt > 3 || b.FetchBytes < 0 || b.SentBytes < 0 || b.OutputSize < 0 || b.LogSize < 0 || b.BuildTime < 0 || b.BuildTime > 60:
		h.t.Errorf("%s: got %s", what, text)
	case len(text) > 64<<10 || bytes.ContainsAny(text, "\x1b\x00") || bytes.Contains(text, []byte(`\u001b`)):
		h.t.Errorf("%s: the record has %d bytes: %s", what, len(text), api.Cut(string(text), 500))
	}
}

// TestHostileMachine sweeps what an agent says of its machine.
func TestHostileMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const what = "GET /v1/machine"
		h := newHostile(t)
		for _, field := range fieldsOf(reflect.TypeFor[agentapi.Machine]()) {
			for _, value := range hostileValues() {
				h.twist(only(what, func(text []byte) []byte { return with(text, field, value) }))
				h.look()
			}
			h.good() // while the machine is as the last value has it
			h.twist(nil)
			h.forgive()
		}
		for _, twist := range bodies {
			h.twist(only(what, twist))
			h.look()
		}
		h.survives()
	})
}

// TestHostileImport sweeps what an agent says that an archive held.
func TestHostileImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const what = "POST /v1/import"
		h := newHostile(t)
		var lies []*lie
		for _, l := range fieldLies(t, agentapi.Infos{Infos: []*store.Info{{Path: h.output(h.drv("true", "")), NARHash: [32]byte{1}}}}) {
			lies = append(lies, l.of(what, "log=x"))
		}
		for name, twist := range bodies {
			lies = append(lies, &lie{what: what, script: "log=x", name: what + " " + name, twist: twist})
		}
		h.tell(lies)
		h.survives()
	})
}

// TestHostileListing sweeps what a machine that was away says that it has.
func TestHostileListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const what = "GET /v1/builds"
		h := newHostile(t)
		a := h.agents[evil]
		held := h.name()
		id := h.submit(h.drv(held, "hold"))[0]
		h.awaitState(id, api.Building)
		away := func(twist func(string, []byte) []byte) {
			h.down()
			h.twist(twist)
			a.up()
			h.look()
		}
		for _, field := range fieldsOf(reflect.TypeFor[[]agentapi.BuildStatus]()) {
			for i, value := range hostileValues() {
				if i%4 == 0 || strings.Contains(field, "attempt") || strings.Contains(field, "state") || strings.Contains(field, "outputs") {
					away(only(what, func(text []byte) []byte { return with(text, field, value) }))
				}
			}
		}
		for _, twist := range bodies {
			away(only(what, twist))
		}
		h.releaseAll(held)
		h.twist(nil)
		h.awaitFinal(id)
		h.survives()
	})
}
