package webtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"lighter/internal/cli"
	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store/local"
)

var shots = flag.String("shots", "", "write pictures of all pages into this `FOLDER`")

// TestMain is the program itself if it is called as lighter. So the tests depend on all of it, and have the
// race detector in it where they have it themselves.
func TestMain(m *testing.M) {
	local.MaybeRunBuilder()
	if filepath.Base(os.Args[0]) == "lighter" {
		os.Exit(cli.Main())
	}
	code := m.Run()
	if err := tearDown(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// folder is that of all files of the tests.
var folder = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lighter") // a socket's name is short
	if err != nil {
		return "", err
	}
	atEnd(func() error { return nar.RemoveAll(dir) }) // items of a store are read-only
	return dir, os.Chmod(dir, 0o755)                  // builders are other users
})

var endings []func() error

// atEnd has something done after the last test, the latest first.
func atEnd(do func() error) { endings = append(endings, do) }

func tearDown() (err error) {
	for i := len(endings) - 1; i >= 0; i-- {
		if e := endings[i](); e != nil && err == nil {
			err = e
		}
	}
	return err
}

// browser is Chromium, one for all tests; its tabs are the tests' own.
var browser = sync.OnceValues(func() (context.Context, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	program, err := exec.LookPath("chromium")
	if err != nil {
		return nil, err
	}
	var process *exec.Cmd
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, // as root, in containers
		chromedp.UserDataDir(filepath.Join(dir, "chromium")),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true),
		// Whatever a page would fetch from elsewhere is a failure, and goes nowhere.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			if cmd.SysProcAttr == nil {
				cmd.SysProcAttr = new(syscall.SysProcAttr)
			}
			cmd.SysProcAttr.Setpgid = true
			process = cmd
		}),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator)
	atEnd(func() error {
		err := chromedp.Cancel(ctx)
		stop()
		if process != nil && process.Process != nil {
			_ = syscall.Kill(-process.Process.Pid, syscall.SIGKILL) // its helpers
		}
		return err
	})
	return ctx, chromedp.Do(ctx) // starts it
})

// patience bounds what must happen soon.
const patience = time.Minute

func needBrowser(t *testing.T) context.Context {
	t.Helper()
	testkit.NeedCommand(t, "chromium")
	ctx, err := browser()
	if err != nil {
		t.Fatal("Chromium: ", err)
	}
	return ctx
}
