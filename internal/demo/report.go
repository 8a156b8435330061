package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/disk"
	"lighter/internal/quantity"
)

// report checks what came home, copies it, and says who built what.
func (d *demo) report(ctx context.Context) error {
	builds, err := d.builds(ctx)
	if err != nil {
		return err
	}
	for i := range builds {
		if b := &builds[i]; b.State != api.Succeeded {
			return fmt.Errorf("build %s is %s", display.Name(b), b.State)
		}
	}
	if len(builds) != len(d.graph.derivations) {
		return fmt.Errorf("%d builds were made, want %d", len(builds), len(d.graph.derivations))
	}
	if err := d.sayMachines(builds); err != nil {
		return err
	}
	if err := d.checkSignatures(ctx); err != nil {
		return err
	}
	files, err := d.copyResult(ctx)
	if err != nil {
		return err
	}
	d.say("\nThe result, after %s:", quantity.Duration(time.Since(d.began)))
	for _, f := range files {
		d.say("  %s", f)
	}
	d.say("\nLook into it:\n  tar -tzf %s", files[0])
	if !d.Keep {
		d.say("Look at the store, the logs and the ledger of such a run:\n  lighter demo --keep")
		return nil
	}
	d.say("Look at the store, the logs and the ledger of this run:\n  export LIGHTER_STATE=%s LIGHTER_CONFIG=%s\n  lighter store info -r %s\n  lighter coordinator & sleep 1; lighter builds list",
		d.state(), d.config(), d.graph.derivations[d.graph.release].Outputs[0].Path)
	return nil
}

// share is what one machine did.
type share struct {
	builds int
	time   time.Duration
	made   int64 // bytes of outputs, as NARs
	names  []string
}

// sayMachines writes a table of who built what.
func (d *demo) sayMachines(builds []api.Build) error {
	shares := make(map[string]*share)
	for i := range builds {
		b := &builds[i]
		s := shares[b.Machine]
		if s == nil {
			s = new(share)
			shares[b.Machine] = s
		}
		s.builds++
		s.time += b.BuildTime.Duration()
		s.made += b.OutputSize
		s.names = append(s.names, display.Name(b))
	}
	w := tabwriter.NewWriter(d.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nMACHINE\tBUILDS\tTOOK\tMADE\tAMONG OTHERS")
	for _, spec := range specs {
		s := shares[spec.name]
		if s == nil {
			return fmt.Errorf("the machine %s built nothing", spec.name)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", spec.name, s.builds, quantity.Duration(s.time),
			quantity.Bytes(s.made), notable(s.names))
	}
	return w.Flush()
}

// notable picks a few names: those at the end of the graph first.
func notable(names []string) string {
	slices.SortStableFunc(names, func(a, b string) int { return perPackage(a) - perPackage(b) })
	return strings.Join(names[:min(2, len(names))], ", ")
}

func perPackage(name string) int {
	if strings.HasPrefix(name, "archive-") || strings.HasPrefix(name, "statistics-") {
		return 1
	}
	return 0
}

// copyResult copies the files of the release to the folder for results, and
// returns their names.
func (d *demo) copyResult(ctx context.Context) ([]string, error) {
	release := d.graph.derivations[d.graph.release].Outputs[0].Path
	folder, err := d.output(ctx, "store", "path", string(release))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.Result, 0o755); err != nil {
		return nil, err
	}
	var copied []string
	err = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		target := filepath.Join(d.Result, entry.Name())
		copied = append(copied, target)
		return copyFile(target, file)
	})
	if err == nil && len(copied) == 0 {
		err = errors.New("the release has no file")
	}
	return copied, err
}

// copyFile puts a copy of a file in the place of another.
func copyFile(target, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	return disk.Replace(target, 0o644, func(out *os.File) error {
		_, err := io.Copy(out, in)
		return err
	})
}
