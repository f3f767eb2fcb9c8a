// node setup.mjs CIRCUIT.r1cs POWER FOLDER: throw-away powers of tau and keys for TESTS, made by nobody but this run.
// Writes circuit.zkey and verification_key.json into FOLDER; keeps pot<POWER>.ptau there, or takes it if it is there.
import { existsSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { createRequire } from "node:module";

const [r1cs, power, folder, modules] = process.argv.slice(2);
const snarkjs = createRequire(join(modules, "x.cjs"))("snarkjs");
const file = (name) => join(folder, name);
const entropy = () => randomBytes(32).toString("hex");

const ptau = file(`pot${power}.ptau`);
if (!existsSync(ptau)) {
    const curve = await snarkjs.curves.getCurveFromName("bn128");
    await snarkjs.powersOfTau.newAccumulator(curve, Number(power), file("new.tmp"));
    await snarkjs.powersOfTau.contribute(file("new.tmp"), file("contributed.tmp"), "TEST ONLY", entropy());
    await snarkjs.powersOfTau.preparePhase2(file("contributed.tmp"), file("ptau.tmp"));
    renameSync(file("ptau.tmp"), ptau);
}
await snarkjs.zKey.newZKey(r1cs, ptau, file("first.tmp"));
await snarkjs.zKey.contribute(file("first.tmp"), file("zkey.tmp"), "TEST ONLY", entropy());
const key = await snarkjs.zKey.exportVerificationKey(file("zkey.tmp"));
writeFileSync(file("verification_key.json"), JSON.stringify(key, null, 1));
renameSync(file("zkey.tmp"), file("circuit.zkey"));
for (const name of ["new.tmp", "contributed.tmp", "first.tmp"]) rmSync(file(name), { force: true });
process.exit(0); // snarkjs' threads would keep it
