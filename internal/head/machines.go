package head

import (
	"context"
	"os/exec"

	"lighter/internal/buildhook"
	"lighter/machines"
)

// ReadMachines reads and checks a machines file, and finds out how its machines are reached. A
// file of Guix's that is beyond lighter's evaluator is given to guix, OpenSSH's configuration to
// ssh, where these programs are. See [machines.Read] for the warnings and errors.
func ReadMachines(ctx context.Context, file string, getenv func(string) string) ([]machines.Machine, []*machines.Error, error) {
	guix, _ := buildhook.FindGuix(getenv) // that there is none is fine
	list, warnings, err := machines.Read(ctx, file, machines.Options{Guix: guix})
	if err != nil {
		return nil, warnings, err
	}
	ssh, _ := exec.LookPath("ssh") // so is that
	machines.Resolve(ctx, list, machines.SSH{Program: ssh, Home: Home(getenv)})
	return list, warnings, nil
}
