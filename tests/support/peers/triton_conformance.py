"""Run by the interpreter that has tritonclient: what it sees of the server at argv[1], as JSON and .npz.

usage: triton_conformance.py ADDRESS INPUTS.npz OUTPUTS.npz
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

address, given, made = sys.argv[1:]
inputs = np.load(given)
seen, tensors = {}, {}


def infer(client, model, arrays, outputs=(), **options):
    sent = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array)
        sent.append(tensor)
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(model, sent, outputs=wanted, **options)


with triton.InferenceServerClient(address) as client:
    seen["live"], seen["ready"] = client.is_server_live(), client.is_server_ready()
    seen["model_ready"] = client.is_model_ready("patterns")
    seen["server"] = client.get_server_metadata(as_json=True)
    seen["model"] = client.get_model_metadata("patterns", as_json=True)
    seen["gradient_model"] = client.get_model_metadata("patterns.gradient", as_json=True)
    answer = infer(client, "patterns", {"image": inputs["image"]}, request_id="seven")
    seen["id"] = answer.get_response().id
    tensors["probabilities"] = answer.as_numpy("probabilities")
    answer = infer(client, "patterns", {"image": inputs["image"]}, ["features.relu2"], model_version="1")
    tensors["features.relu2"] = answer.as_numpy("features.relu2")
    pair = {"image": inputs["image"], "cotangent": inputs["cotangent"]}
    tensors["image_gradient"] = infer(client, "patterns.gradient", pair).as_numpy("image_gradient")
    guided = infer(client, "patterns.gradient", pair, parameters={"rule": "guided_backprop"})
    tensors["guided"] = guided.as_numpy("image_gradient")
    for name, call in {
        "unknown model": lambda: infer(client, "nobody", {"image": inputs["image"]}),
        "unknown output": lambda: infer(client, "patterns", {"image": inputs["image"]}, ["nothing"]),
        "wrong input": lambda: infer(client, "patterns", {"picture": inputs["image"]}),
        "wrong shape": lambda: infer(client, "patterns", {"image": inputs["image"][:, :2]}),
    }.items():
        try:
            call()
            seen[name] = "no error"
        except triton.InferenceServerException as error:
            seen[name] = f"{error.status()} {error.message()}"
np.savez(made, **tensors)
print(json.dumps(seen))
