#!/usr/bin/env bash
# An answer from the model in this package, with its denoising; then a batch as JSON and as a page for the browser.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
page="${JAXDLM_DEMO_PAGE:-demo.html}"
mapfile -t questions < <(python -m jaxdlm examples)

echo
echo "A question that the model has not seen in training, answered one token per forward (░ is a mask):"
echo
echo "    ${questions[1]}"
echo
python -m jaxdlm generate "${questions[1]}" --policy low_confidence --max-new 16 --watch

echo
echo "The same in fewer forwards, every token that is 90 % sure at once:"
echo
python -m jaxdlm generate "${questions[1]}" --policy threshold,tau=0.9 --max-new 16 --watch

echo
echo "Three more, as JSON; their denoising is in $page:"
echo
printf '%s\n' "${questions[@]:2:3}" | python -m jaxdlm generate - --policy low_confidence --max-new 32 --json --html "$page"

echo
echo "Next: source ${VIRTUAL_ENV}/bin/activate, then jaxdlm examples, jaxdlm policies, or open $page in a browser."
