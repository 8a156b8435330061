package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/submission/submissiontest"
	"lighter/internal/testkit"
	"lighter/store"
)

// queueServers has a data service that serves testdata of its client, and a coordinator's
// socket. It returns the arguments that name them.
func queueServers(t *testing.T, stub *submissiontest.Coordinator) []string {
	t.Helper()
	testkit.CheckLeaks(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "branch.json"
		switch {
		case strings.HasPrefix(r.URL.Path, "/repository/1/branch/master"):
		case r.URL.Query().Get("after_name") == "" && r.URL.Query().Get("system") == "x86_64-linux":
			name = "package-derivations.json"
		default:
			name = ""
		}
		w.Header().Set("Content-Type", "application/json")
		if name == "" {
			fmt.Fprint(w, `{"derivations":[]}`)
			return
		}
		http.ServeFile(w, r, filepath.Join("..", "dataservice", "testdata", name))
	}))
	t.Cleanup(service.Close)
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/machines", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode([]api.MachineStatus{{Name: "m", Systems: []string{"x86_64-linux"}}})
	})
	mux.HandleFunc("POST /v1/builds", func(w http.ResponseWriter, r *http.Request) {
		var body api.Submission
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		answers, _ := stub.SubmitAll(r.Context(), body.Builds)
		_ = json.NewEncoder(w).Encode(api.Submissions{Builds: answers})
	})
	coordinator := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- coordinator.Serve(listener) }()
	t.Cleanup(func() { coordinator.Close(); <-served })
	return []string{"queue", "--once", "--guix-data-service", service.URL, "--socket", socket, "--state", dir}
}

func runQueue(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	home := t.TempDir()
	p := command.Process{In: strings.NewReader(""), Out: &o, Err: &e, Getenv: func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}}
	code = Run(t.Context(), args, p)
	return code, o.String(), e.String()
}

func TestQueueCommand(t *testing.T) {
	stub := &submissiontest.Coordinator{}
	args := queueServers(t, stub)
	code, out, errs := runQueue(t, append(args, "--dry-run", "--revisions", "2")...)
	want := "/gnu/store/0cr3xlhxgm9g2cbyhmkgzc4gmcljh5mr-hello-2.12.drv\n/gnu/store/3sywvk8bdphbdpyxnyx9ry8axq0v5nzp-sed-4.8.drv\n"
	if code != command.ExitDone || out != want || len(stub.Builds) > 0 {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	code, out, errs = runQueue(t, append(args, "--derivation-substitute-urls", "https://example.org", "--tag", "a=b")...)
	if code != command.ExitDone || out != "" || !strings.Contains(errs, "2 submitted") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	state := args[len(args)-1]
	text, err := os.ReadFile(filepath.Join(state, "processed-commits"))
	if wantText := strings.Repeat("1", 40) + "\n" + strings.Repeat("2", 40) + "\n"; string(text) != wantText || err != nil {
		t.Errorf("processed: %q, %v", text, err)
	}
	var got []store.Path
	for _, b := range stub.Builds {
		got = append(got, b.Derivation)
		if diff := cmp.Diff(b.DerivationSubstituteURLs, []string{"https://example.org"}); diff != "" || b.Tags["a"] != "b" || b.Tags["commit"] != strings.Repeat("1", 40) {
			t.Errorf("%+v", b.Request)
		}
	}
	slices.Sort(got)
	if len(got) != 2 {
		t.Fatalf("builds of %v", got)
	}
	if text := fmt.Sprintln(got[0]) + fmt.Sprintln(got[1]); text != want {
		t.Errorf("builds of %v", got)
	}
	code, _, errs = runQueue(t, append(args, "--system", "x86_64-linux", "--branch", "master", "--socket", filepath.Join(state, "none"))...)
	if code != command.ExitNoAnswer || !strings.Contains(errs, "no coordinator answers at") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

func TestQueueUsage(t *testing.T) {
	for args, want := range map[string]string{
		"now":                                    `takes no arguments, got "now"`,
		"--guix-data-service data.guix.gnu.org":  "want a URL such as https://data.guix.gnu.org",
		"--repository 0":                         "the service counts from 1",
		"--revisions 0":                          "want 1 or more",
		"--interval 0":                           "want a time such as 10m",
		"--system x86'":                          "want one such as x86_64-linux",
		"--systems-and-targets x86_64-linux":     "want SYSTEM=TARGET, such as",
		"--tag commit=1":                         "builds get this one anyway",
		"--branch=":                              "the name is empty",
		"--log-level loud":                       "none of debug",
		"--system=--once":                        "want one such as",
		"--systems-and-targets =aarch64-linux-x": "want SYSTEM=TARGET",
	} {
		code, _, errs := runQueue(t, append([]string{"queue", "--state", t.TempDir()}, strings.Fields(args)...)...)
		if code != command.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, errs, want)
		}
	}
}

// startDataService serves one revision of master, whose derivations are the lines of a
// file, whatever that has then.
func startDataService(ts *testscript.TestScript, _ bool, args []string) {
	file, system := ts.MkAbs(args[0]), ts.Getenv("SYSTEM")
	answer := func(r *http.Request) (string, error) {
		q := r.URL.Query()
		if strings.HasPrefix(r.URL.Path, "/repository/1/branch/master") {
			return `{"revisions":[{"date":"2022-01-30 09:15:00","commit-hash":"` + strings.Repeat("1", 40) + `","data_available":true}]}`, nil
		}
		if q.Get("system") != system || q.Get("after_name") != "" {
			return `{"derivations":[]}`, nil
		}
		text, err := os.ReadFile(file)
		var list []string
		for _, drv := range strings.Fields(string(text)) {
			list = append(list, fmt.Sprintf(`{"derivation":%q,"system":%q,"target":""}`, drv, system))
		}
		return `{"derivations":[` + strings.Join(list, ",") + `]}`, err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := answer(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	}))
	ts.Defer(server.Close)
	ts.Setenv("DATA_SERVICE", server.URL)
}
