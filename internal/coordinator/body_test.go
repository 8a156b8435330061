package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// repeat returns n times an element, with commas.
func repeat(element string, n int) string {
	return strings.TrimSuffix(strings.Repeat(element+",", n), ",")
}

// TestBodiesTakeNoMemory sends bodies that would be much larger in memory than they are.
func TestBodiesTakeNoMemory(t *testing.T) {
	f := newFarm(t, nil)
	handler := f.c.Handler()
	drv := string(f.drv("one", ""))
	const most = 48 << 20 // bytes that are taken, all in all, of which most are free again before the end
	for _, attack := range []struct{ name, path, body, want string }{
		{"many requests", "/v1/builds", `{"builds":[` + repeat(`{}`, 1_000_000) + `]}`, "builds: at most 10000 are taken"},
		{"many nulls", "/v1/builds", `{"builds":[` + repeat(`null`, 1_000_000) + `]}`, "builds: at most 10000 are taken"},
		{"two lists", "/v1/builds", `{"builds":[` + repeat(`{}`, 9000) + `],"builds":[` + repeat(`{}`, 9000) + `]}`, "builds: at most 10000 are taken"},
		{"many tags", "/v1/builds", `{"derivation":"` + drv + `","tags":{` + repeatKeys(100_000) + `}}`, "more than 262144 bytes in one value"},
		{"many tags of many", "/v1/builds", `{"builds":[` + repeat(`{"derivation":"`+drv+`","tags":{`+repeatKeys(10_000)+`}}`, 20) + `]}`, ""},
		{"a long text", "/v1/builds", `{"derivation":"` + strings.Repeat("x", 20<<20) + `"}`, "more than 262144 bytes in one value"},
		{"many fields", "/v1/builds", `{` + repeat(`"priority":1`, 1_000_000) + `}`, "more than 262144 bytes in one value"},
		{"space", "/v1/builds", strings.Repeat(" ", 20<<20) + `{}`, "more than 262144 bytes in one value"},
		{"space behind", "/v1/builds", `{}` + strings.Repeat(" ", 20<<20), "more than 262144 bytes in one value"},
		{"depth", "/v1/builds", strings.Repeat(`{"builds":[`, 100_000), "builds"},
		{"depth of a value", "/v1/builds", `{"tags":` + strings.Repeat(`{"a":`, 50_000), "body"},
		{"many ids", "/v1/cancel", `{"ids":[` + repeat(`""`, 1_000_000) + `]}`, "ids: at most 100000 are taken"},
		{"too large a body", "/v1/cancel", `{"ids":["` + strings.Repeat("x", 10<<20) + `"]}`, "more than 8388608 bytes"},
		{"a long id", "/v1/cancel", `{"ids":["` + strings.Repeat("x", 201) + `"]}`, "at most 200"},
		{"many states", "/v1/cancel", `{"filter":{"states":[` + repeat(`"queued"`, 20_000) + `]}}`, "20000 states"},
		{"many tags in a filter", "/v1/cancel", `{"filter":{"tags":{` + repeatKeys(1000) + `}}}`, "1000 tags"},
		{"many runs", "/v1/hooks/drop", `{"ids":[` + repeat(`"a/1"`, 20_000) + `]}`, "ids: at most 10000 are taken"},
		{"a large note", "/v1/pause", `{"reason":"` + strings.Repeat("x", 1<<20) + `"}`, "more than 262144 bytes"},
	} {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, attack.path, strings.NewReader(attack.body)))
		runtime.ReadMemStats(&after)
		switch got := w.Body.String(); {
		case attack.want == "" && w.Code != http.StatusOK, attack.want != "" && (w.Code != http.StatusBadRequest || !strings.Contains(got, attack.want)):
			t.Errorf("%s: got %d %.200s, want %q", attack.name, w.Code, got, attack.want)
		case after.TotalAlloc-before.TotalAlloc > most:
			t.Errorf("%s: a body of %d bytes takes %d", attack.name, len(attack.body), after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// repeatKeys returns fields with different names.
func repeatKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%x":"",`, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

func TestReadLists(t *testing.T) {
	type rest struct {
		A int
		B string
	}
	for _, test := range []struct{ body, want string }{
		{``, "0  []"},
		{`{}`, "0  []"},
		{`{"A":1,"list":[1,2],"B":"x"}`, "1 x [1 2]"},
		{`{"list":null,"A":1}`, "1  []"},
		{` { "list" : [ 1 , 2 ] , "A" : 1 } `, "1  [1 2]"},
		{`{"list":[]}`, "0  []"},
		{`{"list":[1,2,3,4]}`, "body: list: at most 3 are taken"},
		{`{"list":[1,2],"list":[3,4]}`, "body: list: at most 3 are taken"},
		{`{"list":{}}`, "body: list: want a list"},
		{`{"list":["x"]}`, "body: list[0]: json: cannot unmarshal string into Go value of type int"},
		{`{"list":[1`, "body: unexpected EOF"},
		{`{"C":1}`, `body: unknown field "C"`},
		{`{"A":"x"}`, "body: cannot unmarshal string into Go struct field rest.A of type int"},
		{`{"A":1}{}`, "body: there is more than one JSON value"},
		{`{"A":1} x`, "body: invalid character 'x' looking for beginning of value"},
		{`[]`, "body: want a JSON object"},
		{`1`, "body: want a JSON object"},
		{`null`, "body: want a JSON object"},
		{`{"A":1`, "body: unexpected EOF"},
		{`{"A"`, "body: unexpected EOF"},
		{`{`, "body: unexpected EOF"},
	} {
		var v rest
		var numbers []int
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(test.body))
		err := readLists(r, &v, &list{field: "list", most: 3, each: func(d *json.Decoder) error {
			var n int
			if err := d.Decode(&n); err != nil {
				return err
			}
			numbers = append(numbers, n)
			return nil
		}})
		got := fmt.Sprint(v.A, " ", v.B, " ", numbers)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.body, got, test.want)
		}
	}
}

// TestElementAtTheLimit has elements whose ends fall on the end of what may be read.
func TestElementAtTheLimit(t *testing.T) {
	for size := maxSmallBody/2 - 3; size < maxSmallBody/2+3; size++ {
		element := `"` + strings.Repeat("x", size-2) + `"`
		var ids []string
		l := &list{field: "ids", most: 3, each: func(d *json.Decoder) error {
			var id string
			err := d.Decode(&id)
			ids = append(ids, id)
			return err
		}}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(`{"ids":[`+repeat(element, 3)+`]}`))
		if err := readLists(r, &struct{}{}, l); err != nil || len(ids) != 3 {
			t.Errorf("elements of %d bytes: %d of them, %v", size, len(ids), err)
		}
	}
}

func TestMemoryIsShared(t *testing.T) {
	m := newMemory()
	ctx := t.Context()
	all, err := m.acquire(ctx, 5, 10*userMemory) // as much as there is
	if err != nil {
		t.Fatal(err)
	}
	// Another user has as much, and this one waits.
	other, err := m.acquire(ctx, 6, userMemory)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.acquire(gone, 5, 1); err == nil {
		t.Error("somebody has more than there is")
	}
	all()
	again, err := m.acquire(ctx, 5, userMemory)
	if err != nil {
		t.Fatal(err)
	}
	again()
	other()
	if len(m.users) > 0 {
		t.Errorf("%d users are remembered", len(m.users))
	}
}

// clientBodies has what clients send, by the operation that takes it, and with what is wrong.
var clientBodies = []struct{ path, body string }{
	{"/v1/builds", `{"builds":[{"derivation":"DRV","priority":5,"tags":{"set":"nightly"},"on":["m1"],"skip":["m2"],"timeout":1.5,"retries":-1,"outputs":["out"]}]}`},
	{"/v1/builds", `{"derivation":"DRV","id":"00000000-0000-4000-8000-000000000000","check":2,"keepFailed":true,"maxSilentTime":1e9}`},
	{"/v1/builds", `{"derivation":"DRV","allInputs":true,"skipIfBuilt":true,"skipIfSubmitted":true,"derivationSubstituteURLs":["http://127.0.0.1:1"]}`},
	{"/v1/builds", `{"derivation":"/gnu/store/../../etc/passwd.drv","offload":true,"attached":true}`},
	{"/v1/builds", `{"derivation":"DRV","timeout":1e308,"priority":-9223372036854775808,"retries":1e9}`},
	{"/v1/cancel", `{"ids":["3f2b","00000000-0000-4000-8000-000000000000"],"withDependents":true,"reason":"x"}`},
	{"/v1/retry", `{"filter":{"states":["failed","canceled"],"tags":{"a":"b"},"notTags":{"c":""},"name":"x-*","system":"s","machine":"m","user":"u","since":"2026-01-01T00:00:00Z"}}`},
	{"/v1/priority", `{"filter":{"states":["queued"],"derivation":"DRV"},"priority":7}`},
	{"/v1/prune", `{"olderThan":7776000,"states":["failed"],"dryRun":true,"keepLogs":true}`},
	{"/v1/machines/m1/drain", `{"reason":"x"}`},
	{"/v1/machines/m1/resume", `{"reason":"x"}`},
	{"/v1/machines/m1/tags", `{"set":{"rack":"3"},"remove":["old"]}`},
	{"/v1/machines/m1/gc", `{"maxFreed":1073741824,"olderThan":86400,"dryRun":true}`},
	{"/v1/pause", `{"reason":"\u001b[2J"}`},
	{"/v1/resume", `{"reason":"\ud800"}`},
	{"/v1/reload", `{}`},
	{"/v1/hooks/retry", `{"ids":["mail/1042"]}`},
	{"/v1/hooks/drop", `{"hook":"mail","all":true}`},
	{"/v1/hooks/mail/test", `{"build":"3f2a","event":"build-failed","machine":"m1"}`},
	{"/v1/builds/3f2b/cancel", `null`},
}

// FuzzClientBodies sends each operation whatever there may be, and expects an answer that is
// no fault of the coordinator's.
func FuzzClientBodies(f *testing.F) {
	farm := newFarm(f, func(c *Config) {
		restricted(c)
		c.Logger = nil // what it says is too much to keep
	}, "m1")
	drv := string(farm.drv("one", ""))
	var paths []string
	for _, seed := range clientBodies {
		if !slices.Contains(paths, seed.path) {
			paths = append(paths, seed.path)
		}
		f.Add(uint8(slices.Index(paths, seed.path)), uint8(0), []byte(strings.ReplaceAll(seed.body, "DRV", drv)))
		f.Add(uint8(slices.Index(paths, seed.path)), uint8(1), []byte(strings.ReplaceAll(seed.body, "DRV", drv)))
	}
	handler := farm.c.Handler()
	callers := []*Peer{peer(0), peer(5)}
	f.Fuzz(func(t *testing.T, path, who uint8, body []byte) {
		target := paths[int(path)%len(paths)]
		ctx := context.WithValue(t.Context(), peerKey{}, callers[int(who)%len(callers)])
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body)))
		// A prune has no folder here, and a machine no more than it says.
		if w.Code >= 500 && w.Code != http.StatusBadGateway && target != "/v1/prune" {
			t.Fatalf("%s with %q: %d %s", target, body, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s with %q: the answer %q is not JSON", target, body, w.Body)
		}
	})
}
