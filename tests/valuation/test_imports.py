import subprocess
import sys


def test_valuation_and_ledger_are_imported_without_anything_heavy():
    code = (
        "import sys, neuronexus_kernel.valuation.jobs, neuronexus_kernel.valuation.receipt,"
        "neuronexus_kernel.valuation.coalitions, neuronexus_kernel.ledger.checkpoint;"
        "assert not {'torch', 'flwr', 'scipy', 'pandas', 'cryptography'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
