package coordinator

import (
	"bytes"
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
	handler := f.handler()
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
	{"/v1/logins", `{}`},
	{"/v1/logins/whose", `{"token":"x"}`},
	{"/v1/sessions", `{"token":"x"}`},
	{"/v1/hooks/retry", `{"ids":["mail/1042"]}`},
	{"/v1/hooks/drop", `{"hook":"mail","all":true}`},
	{"/v1/hooks/mail/test", `{"build":"3f2a","event":"build-failed","machine":"m1"}`},
	{"/v1/builds/3f2b/cancel", `null`},
}

// FuzzClientBodies sends each operation whatever there may be, and expects an answer that is
// no fault of the coordinator's.
func FuzzClientBodies(f *testing.F) {
	farm := restricted(newFarm(f, func(c *Config) { c.Logger = nil }, "m1")) // what it logs is too much to keep
	drv := string(farm.drv("one", ""))
	var paths []string
	for _, seed := range clientBodies {
		if !slices.Contains(paths, seed.path) {
			paths = append(paths, seed.path)
		}
		f.Add(uint8(slices.Index(paths, seed.path)), uint8(0), []byte(strings.ReplaceAll(seed.body, "DRV", drv)))
		f.Add(uint8(slices.Index(paths, seed.path)), uint8(1), []byte(strings.ReplaceAll(seed.body, "DRV", drv)))
	}
	handler := farm.handler()
	callers := []*TestPeer{caller(0), caller(5)}
	f.Fuzz(func(t *testing.T, path, who uint8, body []byte) {
		target := paths[int(path)%len(paths)]
		ctx := WithPeer(t.Context(), callers[int(who)%len(callers)])
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
