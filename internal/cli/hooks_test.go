package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/command"
)

// hooksCoordinator answers about hooks, and notes what it is asked to do.
func hooksCoordinator(t *testing.T) (socket string, asked *[]string) {
	t.Helper()
	asked = new([]string)
	next := time.Now().Add(150*time.Minute + 30*time.Second)
	parked := api.HookRun{
		ID: "publish/1042", Hook: "publish", Event: "build-succeeded", Build: "3f2a91c0-1111", State: "parked", Tries: 8,
		Error: "exit\nstatus 1", Since: time.Now().Add(-3 * time.Hour), EventSeq: 1042,
	}
	list := api.HookList{
		Hooks: []api.HookStatus{
			{Name: "publish", Events: []string{"build-succeeded"}, BuiltIn: "publish", Waiting: 2, Parked: 1, Done: 12345, Behind: 7},
			{Name: "mail", Events: []string{"build-failed", "machine-lost"}, Command: []string{"/bin/mail", "me"}, Running: 1},
		},
		Runs: []api.HookRun{
			parked,
			{ID: "mail/7", Hook: "mail", Event: "machine-lost", Machine: "nine", State: "retrying", Tries: 2, NextTry: &next, Error: "no mail", Since: time.Now().Add(-49 * time.Hour)},
			{ID: "mail/8", Hook: "mail", Event: "build-failed", State: "waiting", Since: time.Now()},
		},
	}
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hooks", func(w http.ResponseWriter, _ *http.Request) { answer(w, list) })
	mux.HandleFunc("GET /v1/hooks/publish/1042", func(w http.ResponseWriter, _ *http.Request) {
		run := parked
		run.Output = "line one\n\x1b[2Jline two\n"
		answer(w, run)
	})
	note := func(r *http.Request) {
		var body any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		text, err := json.Marshal(body)
		if err != nil {
			t.Error(err)
		}
		*asked = append(*asked, r.URL.Path+" "+string(text))
	}
	for _, do := range []string{"retry", "drop"} {
		mux.HandleFunc("POST /v1/hooks/"+do, func(w http.ResponseWriter, r *http.Request) {
			note(r)
			answer(w, api.Selected{IDs: []string{"publish/1042"}, Count: 1})
		})
	}
	mux.HandleFunc("POST /v1/hooks/{hook}/test", func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if r.PathValue("hook") == "mail" {
			answer(w, api.HookTested{Event: "machine-lost", Error: "exit status 1", Output: "no mail\n", Took: 1})
			return
		}
		answer(w, api.HookTested{Event: "build-failed", OK: true, Took: 1})
	})
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-over
	})
	return socket, asked
}

func TestHooks(t *testing.T) {
	socket, asked := hooksCoordinator(t)
	for _, test := range []struct {
		args, out, errs string
		code            int
		asked           string
	}{
		{args: "list", out: `
HOOK     COMMAND            EVENTS                     WAITING  RUNNING  PARKED  DONE    BEHIND
publish  built in: publish  build-succeeded            2        0        1       12,345  7
mail     /bin/mail me       build-failed machine-lost  0        1        0       0       0

RUN           STATE     EVENT            OF        SINCE   TRIES  NEXT      WHY
publish/1042  parked    build-succeeded  3f2a91c0  3h ago  8      -         exit status 1
mail/7        retrying  machine-lost     nine      2d ago  2      in 2h30m  no mail
`},
		{args: "show publish/1042", out: `
run      publish/1042
hook     publish
event    build-succeeded, number 1042, 3 hours ago
build    3f2a91c0-1111
state    parked
tries    8
error    exit\nstatus 1

│ line one
│ line two
`},
		{args: "retry publish/1042 mail/7", out: "1 run will be tried again\n", asked: `/v1/hooks/retry {"ids":["publish/1042","mail/7"]}`},
		{args: "retry --hook publish", out: "1 run will be tried again\n", asked: `/v1/hooks/retry {"hook":"publish"}`},
		{args: "drop --all", code: command.ExitUsage, errs: "use --yes: 1 parked run will never be carried out"},
		{args: "drop --hook publish", code: command.ExitUsage, errs: "use --yes: 1 parked run"},
		{args: "drop --hook mail", out: "1 run dropped\n", asked: `/v1/hooks/drop {"hook":"mail"}`},
		{args: "drop --hook publisch --yes", code: command.ExitUsage, errs: `no hook is called "publisch"; did you mean "publish"?`},
		{args: "drop publsh/1042", code: command.ExitUsage, errs: `no hook is called "publsh"; did you mean "publish"?`},
		{args: "retry nothing/1", code: command.ExitUsage, errs: `no hook is called "nothing"; there are publish, mail`},
		{args: "show publsh/1042", code: command.ExitUsage, errs: `did you mean "publish"?`},
		{args: "test male", code: command.ExitUsage, errs: `no hook is called "male"`},
		{args: "drop --all --yes", out: "1 run dropped\n", asked: `/v1/hooks/drop {"all":true}`},
		{args: "drop --all publish/1", code: command.ExitUsage, errs: "want runs, or --hook, or --all"},
		{args: "retry", code: command.ExitUsage, errs: "want runs, or --hook, or --all"},
		{args: "show mail/1", code: command.ExitFailure, errs: "404"},
		{
			args: "test publish 3f2a --event build-failed", out: "publish, build-failed: done, in 1.0s\n",
			asked: `/v1/hooks/publish/test {"build":"3f2a","event":"build-failed"}`,
		},
		{
			args: "test mail --event machine-lost --machine nine", code: command.ExitFailure,
			out:   "mail, machine-lost: failed: exit status 1, in 1.0s\n\n│ no mail\n",
			asked: `/v1/hooks/mail/test {"event":"machine-lost","machine":"nine"}`,
		},
	} {
		*asked = nil
		var out, errs bytes.Buffer
		p := command.Process{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: func(name string) string {
			return map[string]string{"LIGHTER_SOCKET": socket, "HOME": t.TempDir()}[name]
		}}
		if code := Run(t.Context(), append([]string{"hooks"}, strings.Fields(test.args)...), p); code != test.code {
			t.Errorf("%s: exit code %d, want %d: %s", test.args, code, test.code, errs.String())
		}
		if diff := cmp.Diff(strings.TrimPrefix(test.out, "\n"), out.String()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.args, diff)
		}
		if !strings.Contains(errs.String(), test.errs) || test.errs == "" && errs.Len() > 0 {
			t.Errorf("%s: error %q, want %q", test.args, errs.String(), test.errs)
		}
		if got := strings.Join(*asked, "\n"); got != test.asked {
			t.Errorf("%s: asked %s, want %s", test.args, got, test.asked)
		}
	}
}
