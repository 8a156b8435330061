package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// typePage types the commands of a page in docs/ one block after the other, as its reader would, in one
// folder and with what earlier blocks have set. For the machines file a machine is started, and written to the
// file; a block that starts the coordinator starts the script's.
// What is for another computer has state and configuration of its own.
func typePage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: type-page FILE")
	}
	page, err := os.ReadFile(filepath.Join(docsFolder, args[0]))
	ts.Check(err)
	var before strings.Builder
	typed := 0
	for _, found := range regexp.MustCompile("(?s)(On the other computer[^\n]*\n\n)?```(?:sh|toml)\n(.*?)```\n").FindAllStringSubmatch(string(page), -1) {
		block := strings.ReplaceAll(found[2], "x86_64-linux", ts.Getenv("SYSTEM"))
		if strings.HasPrefix(block, "[[machine]]") {
			startMachine(ts, false, []string{"alpha"})
			continue
		}
		if block == "lighter coordinator &\n" {
			startCoordinator(ts, false, nil)
			continue
		}
		script := before.String() + block
		if found[1] != "" {
			script = "export LIGHTER_STATE=$PWD/other LIGHTER_CONFIG=$PWD/other-config\n" + block
		}
		ts.Logf("%s", block)
		ts.Check(ts.Exec("sh", "-euc", script))
		typed++
		for line := range strings.Lines(block) { // what later blocks use
			if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=$("); ok && regexp.MustCompile(`^[a-z]+$`).MatchString(name) {
				out := ts.MkAbs(name + ".value")
				ts.Check(ts.Exec("sh", "-euc", before.String()+name+"=$("+value+"; echo \"$"+name+"\" > "+out))
				before.WriteString(name + "='" + strings.TrimSpace(ts.ReadFile(out)) + "'\n")
			}
		}
	}
	if typed == 0 {
		ts.Fatalf("%s has no commands", args[0])
	}
}

// docsFolder is that of the documents, found before scripts change the folder.
var docsFolder = func() string {
	folder, err := filepath.Abs("../../docs")
	if err != nil {
		panic(err)
	}
	return folder
}()
