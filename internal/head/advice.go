package head

import (
	"lighter/internal/machinetest"
	"lighter/machines"
	"lighter/nar/signature"
)

// Advice is what tests of the machines to which links lead tell people to do.
func (f Folders) Advice(links *Links) machinetest.Advice {
	return machinetest.Advice{
		Head: machinetest.Head{StoreKind: f.StoreKind, PublicKey: links.PublicKey, KeyFile: signature.PublicFile(f.SigningKey())},
		File: links.MachinesFile, Format: machines.FormatOf(links.MachinesFile, nil), Home: links.Home,
	}
}
