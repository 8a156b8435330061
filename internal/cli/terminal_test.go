package cli

import (
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/testkit"
)

// onTerminal runs a command line whose three streams are a terminal, on which a person types.
func (s *stub) onTerminal(typed string, env map[string]string, args ...string) (code int, shown string) {
	s.t.Helper()
	terminal, person := testkit.Terminal(s.t)
	if _, err := person.WriteString(typed); err != nil {
		s.t.Fatal(err)
	}
	text := make(chan string)
	go func() {
		var all strings.Builder
		for buffer := make([]byte, 1024); ; {
			n, err := person.Read(buffer)
			all.Write(buffer[:n])
			if err != nil || strings.Contains(all.String(), "\x04") {
				text <- strings.ReplaceAll(strings.ReplaceAll(all.String(), "\x04", ""), "\r\n", "\n")
				return
			}
		}
	}()
	code = Run(s.t.Context(), args, command.Process{In: terminal, Out: terminal, Err: terminal, Getenv: func(name string) string {
		if name == "LIGHTER_SOCKET" {
			return s.socket
		}
		return env[name]
	}})
	if _, err := terminal.WriteString("\x04"); err != nil {
		s.t.Fatal(err)
	}
	return code, <-text
}

func TestPages(t *testing.T) {
	s := newStub(t)
	s.mux.Handle("GET /v1/builds", pager(40))
	env := map[string]string{"TERM": "xterm", "LIGHTER_PAGER": "sed s/^/paged:/", "NO_COLOR": "1", "LANG": "C"}
	code, shown := s.onTerminal("", env, "builds", "list")
	if code != command.ExitDone || !strings.HasPrefix(shown, "paged:ID ") || !strings.Contains(shown, "paged:00000001") || !strings.Contains(shown, "paged:there are more") {
		t.Errorf("code %d, shown %q", code, shown)
	}
	for _, args := range [][]string{{"builds", "list", "--no-pager"}, {"builds", "list", "--limit", "x"}} {
		if _, shown := s.onTerminal("", env, args...); shown == "" || strings.Contains(shown, "paged:") {
			t.Errorf("%q: %q", args, shown)
		}
	}
	if strings.Contains(shown, "\x1b[") {
		t.Errorf("coloured in spite of NO_COLOR: %q", shown)
	}
	env["NO_COLOR"] = ""
	if _, shown := s.onTerminal("", env, "builds", "list"); !strings.Contains(shown, "\x1b[32msucceeded") {
		t.Errorf("not coloured: %q", shown)
	}
	env["TERM"] = "dumb"
	if _, shown := s.onTerminal("", env, "builds", "list"); strings.Contains(shown, "paged:") {
		t.Errorf("on a dumb terminal: %q", shown)
	}
	env["TERM"] = "xterm"
	if code, shown := s.onTerminal("", env, "builds", "list", "--help"); code != 0 || !strings.Contains(shown, "paged:SYNOPSIS") {
		t.Errorf("help: code %d, %q", code, shown)
	}
	env["LIGHTER_PAGER"] = "true"
	if code, shown := s.onTerminal("", env, "builds", "list"); code != command.ExitDone || shown != "" {
		t.Errorf("a person who left at once: code %d, %q", code, shown)
	}
}

func TestConsentOnATerminal(t *testing.T) {
	s := newStub(t)
	s.mux.Handle("GET /v1/builds", pager(3))
	s.answer("POST /v1/cancel", api.Selected{IDs: []string{"aaaa1111"}, Count: 1})
	code, shown := s.onTerminal("no\n", nil, "builds", "cancel", "--tag", "k=v")
	if code != command.ExitDone || !strings.Contains(shown, "The filter selects 3 builds. Cancel them? [y/N] ") || !strings.Contains(shown, "nothing was changed") || len(s.requests("POST")) > 0 {
		t.Errorf("no: code %d, %q", code, shown)
	}
	code, shown = s.onTerminal("y\n", nil, "builds", "cancel", "--tag", "k=v")
	if code != command.ExitDone || !strings.Contains(shown, "aaaa1111 canceled") || len(s.requests("POST")) != 1 {
		t.Errorf("yes: code %d, %q", code, shown)
	}
}

func TestStatusIsLeftWithQ(t *testing.T) {
	s := newStub(t)
	var status api.Status
	for range 40 {
		status.Machines = append(status.Machines, api.MachineStatus{Name: "m", State: api.MachineUp})
	}
	s.answer("GET /v1/status", status)
	code, shown := s.onTerminal("jG\x1b[Agq", map[string]string{"TERM": "xterm"}, "status", "--watch")
	if code != command.ExitDone || !strings.Contains(shown, "coordinator") {
		t.Errorf("code %d, %q", code, shown)
	}
}
