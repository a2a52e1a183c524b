from training.segmentation import main

main()
