package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/agentapi"
	"lighter/internal/testkit"
)

// forced returns a client as one behind a forced command has it: what it asks sshd to run,
// and its environment, are the client's; the command is the owner's.
func (h *host) forced(args ...string) *agentapi.Client {
	h.t.Helper()
	client := agentapi.NewClient(func(context.Context) (net.Conn, error) {
		cmd := h.command(append(args, "connect")...)
		cmd.Env = append(cmd.Env, "SSH_ORIGINAL_COMMAND=lighter-agent --sandbox-path=/etc relay "+h.socket())
		cmd.Stderr = os.Stderr
		return startPipes(cmd)
	})
	h.t.Cleanup(client.Close)
	return client
}

// startPipes starts a relay, and reads its first line.
func startPipes(cmd *exec.Cmd) (net.Conn, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	magic := make([]byte, len("lighter-agent/1 connect\n"))
	if _, err := io.ReadFull(out, magic); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	return waitedPipes{pipes{Reader: out, WriteCloser: in}, cmd}, nil
}

type waitedPipes struct {
	pipes
	cmd *exec.Cmd
}

func (p waitedPipes) Close() error { return errors.Join(p.pipes.Close(), p.cmd.Wait()) }

// TestForcedSecrets has a head behind a forced command ask for the machine's keys, in all
// the ways that it has. The agent was started before, by a head that has the account.
func TestForcedSecrets(t *testing.T) {
	testkit.NeedUserNamespaces(t)
	t.Parallel()
	h := newHost(t)
	h.start("")
	state, err := filepath.EvalSymlinks(h.state())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state folder: %v, %v", info.Mode(), err)
	}
	settings := filepath.Join(h.dir, "agent.toml")
	offers := `sandbox-paths = ["/bin", "/usr", "/lib", "/lib64", "/mine=` + h.dir + `"]` + "\n"
	if err := os.WriteFile(settings, []byte(offers), 0o600); err != nil {
		t.Fatal(err)
	}
	client := h.forced("--settings", settings)
	m, err := client.Machine(t.Context())
	if err != nil || m.Offer == nil || len(m.Offer.SandboxPaths) != 5 {
		t.Fatalf("machine: %+v, %v", m, err)
	}
	if why := m.Offer.Refuses([]string{"/mine"}, nil, 1); !strings.Contains(why, "the agent's own") {
		t.Errorf("what the owner offers by mistake: %q", why)
	}
	req := shell(t, m.Systems[0], "thief", "cat /secret/signing-key.sec > $out")
	for _, path := range []string{"/secret=" + state, "/secret=/", "/secret=" + state + "/signing-key.sec", "/secret", "/bin=" + state} {
		req.SandboxPaths = []string{path}
		_, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "thief"}, req)
		var refused *agentapi.Error
		if !errors.As(err, &refused) || refused.Code != agentapi.CodeNotOffered {
			t.Errorf("%s: %v", path, err)
		}
	}
	// What the owner offers by mistake, and what a head with the account asks for.
	for i, ask := range []struct {
		client *agentapi.Client
		path   string
	}{{client, "/mine"}, {h.client(), "/secret=" + state}, {h.client(), "/secret=" + h.dir}, {h.client(), "/secret=" + filepath.Dir(h.socket())}} {
		req := shell(t, m.Systems[0], "thief", "exit 0")
		req.Attempt, req.SandboxPaths = 1, append(req.SandboxPaths, ask.path)
		id := "mistake-" + string(rune('a'+i))
		if _, err := ask.client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req); err != nil {
			t.Fatal(err)
		}
		status, err := ask.client.Log(t.Context(), &agentapi.Asked{ID: id}, 0, io.Discard)
		if err != nil || status.State != agentapi.Failed || !strings.Contains(status.Failure.Message, "the agent's own") {
			t.Errorf("%s: %+v, %v", ask.path, status, err)
		}
	}
	// A good build, through the same command.
	good := shell(t, m.Systems[0], "good", "echo good > $out")
	if _, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "good"}, good); err != nil {
		t.Fatal(err)
	}
	if status, err := client.Log(t.Context(), &agentapi.Asked{ID: "good"}, 0, io.Discard); err != nil || status.State != agentapi.Succeeded {
		t.Errorf("a good build: %+v, %v", status, err)
	}
	// The owner's change counts for the next connection.
	if err := os.WriteFile(settings, []byte("collect-garbage = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := h.forced("--settings", settings).Machine(t.Context()); err != nil || len(m.Offer.SandboxPaths) > 0 || m.Offer.CollectGarbage {
		t.Errorf("after a change: %+v, %v", m, err)
	}
}

// TestForcedWords sends what a head can send before and instead of requests.
func TestForcedWords(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("")
	offer, err := json.Marshal(map[string]any{"name": "", "offer": agentapi.Offer{SandboxPaths: []string{"/etc"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"lighter-head/1 " + string(offer) + "\n",
		`{"authorize": ["(public-key (ecc (curve Ed25519) (q #00#)))"]}`,
	} {
		cmd := h.command("connect")
		conn, err := startPipes(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text+"GET /v1/machine HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) == "HTTP/1.1 200" {
			t.Errorf("%q is answered with %q, %v", text, answer, err)
		}
		if err := conn.Close(); err != nil {
			t.Logf("relay: %v", err)
		}
	}
	if acl, err := os.ReadFile(filepath.Join(h.state(), "acl")); err == nil {
		t.Errorf("a key was accepted: %s", acl)
	}
}
